"""Segment's own Python library with nothing changed but the host. Arguments: URL, CA file, app key, messages."""

import os
import sys

URL, CA, KEY, MESSAGES = sys.argv[1:5]
os.environ["REQUESTS_CA_BUNDLE"] = CA

import segment.analytics as analytics  # noqa: E402: reads the environment

failures = []
analytics.write_key = KEY
analytics.host = URL
analytics.gzip = True
analytics.max_retries = 2
analytics.on_error = lambda error, items: failures.append(str(error))
analytics.identify("segment-user", {"plan": "gold", "address": {"city": "Graz"}})
for number in range(int(MESSAGES) - 1):
    analytics.track("segment-user", "Product Viewed", {"product_id": "i7", "number": number})
analytics.flush()
analytics.shutdown()
if failures:
    sys.exit("; ".join(failures))
