"""The models, run by Triton's client. Arguments: host:port, CA file, app key. Prints one JSON object."""

import json
import sys

import numpy
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

URL, CA, KEY = sys.argv[1:4]


def keyed():
    """A new one each time: the client leaves headers of its own in it."""
    return {"authorization": f"Bearer {KEY}"}


client = InferenceServerClient(URL, ssl=True, ssl_options={"ca_certs": CA})
told = {"live": client.is_server_live(), "ready": client.is_server_ready(), "server": client.get_server_metadata()}
for name in ["retrieval", "ranker"]:
    model = client.get_model_metadata(name, headers=keyed())
    inputs = {}
    for binary in [True, False]:
        asked = []
        for spec in model["inputs"]:
            tensor = InferInput(spec["name"], [3] + spec["shape"][1:], spec["datatype"])
            tensor.set_data_from_numpy(
                numpy.zeros(tensor.shape(), triton_to_np_dtype(spec["datatype"])), binary_data=binary
            )
            asked.append(tensor)
        output = InferRequestedOutput(model["outputs"][0]["name"], binary_data=binary)
        answer = client.infer(name, asked, outputs=[output], headers=keyed(), model_version=model["versions"][0])
        inputs[binary] = answer.as_numpy(output.name())
    told[name] = {
        "ready": client.is_model_ready(name),
        "shape": list(inputs[True].shape),
        "row": model["outputs"][0]["shape"][1:],
        "equal": bool(numpy.array_equal(inputs[True], inputs[False])),
        "finite": bool(numpy.isfinite(inputs[True]).all()),
    }
    # Gzip, as the client sends it where it is asked to.
    client.infer(name, asked, headers=keyed(), request_compression_algorithm="gzip", response_compression_algorithm="gzip")


def refused(ask):
    try:
        ask()
    except InferenceServerException as error:
        return [error.status(), error.message()]


told["absent"] = refused(lambda: client.get_model_metadata("other", headers=keyed()))
told["no_key"] = refused(lambda: client.infer("ranker", asked))
asked[0] = InferInput(model["inputs"][0]["name"], [3, 1, 1], model["inputs"][0]["datatype"])
told["wrong_shape"] = refused(lambda: client.infer("ranker", asked, headers=keyed()))
print(json.dumps(told))
