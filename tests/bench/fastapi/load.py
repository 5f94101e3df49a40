"""Puts visitors' profiles into Redis: `load.py SOCKET FILE`, where FILE has {visitor: profile} as JSON."""
import sys

import orjson
import redis

with redis.Redis(unix_socket_path=sys.argv[1]) as profiles, open(sys.argv[2], "rb") as file:
    with profiles.pipeline(transaction=False) as batch:
        for visitor, profile in orjson.loads(file.read()).items():
            batch.set("profile:" + visitor, orjson.dumps(profile))
        batch.execute()
