"""The models, run by Triton's clients, over REST and gRPC. Arguments: host:port, CA file, app key. Prints one JSON object."""

import json
import sys

import numpy
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

URL, CA, KEY = sys.argv[1:4]


def keyed():
    """A new one each time: the client leaves headers of its own in it."""
    return {"authorization": f"Bearer {KEY}"}


def tensors(kind, model, **how):
    """Three rows of zeros for each input."""
    asked = []
    for spec in model["inputs"]:
        tensor = kind(spec["name"], [3] + spec["shape"][1:], spec["datatype"])
        tensor.set_data_from_numpy(numpy.zeros(tensor.shape(), triton_to_np_dtype(spec["datatype"])), **how)
        asked.append(tensor)
    return asked


def refused(ask):
    try:
        ask()
    except InferenceServerException as error:
        return [error.status(), error.message()]


rest = tritonclient.http.InferenceServerClient(URL, ssl=True, ssl_options={"ca_certs": CA})
grpc = tritonclient.grpc.InferenceServerClient(URL, ssl=True, root_certificates=CA)
told = {"live": rest.is_server_live(), "ready": rest.is_server_ready(), "server": rest.get_server_metadata()}
told["grpc"] = {"live": grpc.is_server_live(), "ready": grpc.is_server_ready()}
told["grpc"]["server"] = grpc.get_server_metadata(as_json=True)
for name in ["retrieval", "ranker"]:
    model = rest.get_model_metadata(name, headers=keyed())
    version, output = model["versions"][0], model["outputs"][0]["name"]
    said = {}
    for binary in [True, False]:
        asked = tensors(tritonclient.http.InferInput, model, binary_data=binary)
        wanted = [tritonclient.http.InferRequestedOutput(output, binary_data=binary)]
        answer = rest.infer(name, asked, outputs=wanted, headers=keyed(), model_version=version)
        said[binary] = answer.as_numpy(output)
    over_grpc = tensors(tritonclient.grpc.InferInput, model)
    wanted = [tritonclient.grpc.InferRequestedOutput(output)]
    answer = grpc.infer(name, over_grpc, outputs=wanted, headers=keyed(), model_version=version, request_id="a")
    described = grpc.get_model_metadata(name, headers=keyed())
    told[name] = {
        "ready": rest.is_model_ready(name) and grpc.is_model_ready(name),
        "shape": list(said[True].shape),
        "row": model["outputs"][0]["shape"][1:],
        "equal": bool(numpy.array_equal(said[True], said[False])),
        "equal_grpc": bool(numpy.array_equal(said[True], answer.as_numpy(output))),
        "finite": bool(numpy.isfinite(said[True]).all()),
        "id": answer.get_response().id == "a",
        "platform": described.platform == model["platform"],
    }
    # Gzip, as the client sends it where it is asked to.
    rest.infer(name, asked, headers=keyed(), request_compression_algorithm="gzip", response_compression_algorithm="gzip")

told["absent"] = refused(lambda: rest.get_model_metadata("other", headers=keyed()))
told["no_key"] = refused(lambda: rest.infer("ranker", asked))
asked[0] = tritonclient.http.InferInput(model["inputs"][0]["name"], [3, 1, 1], model["inputs"][0]["datatype"])
told["wrong_shape"] = refused(lambda: rest.infer("ranker", asked, headers=keyed()))
told["grpc"]["absent"] = refused(lambda: grpc.get_model_metadata("other", headers=keyed()))
told["grpc"]["no_key"] = refused(lambda: grpc.infer("ranker", over_grpc))
told["grpc"]["wrong_shape"] = refused(lambda: grpc.infer("ranker", over_grpc[1:], headers=keyed()))
told["grpc"]["no_such_call"] = refused(lambda: grpc.get_model_repository_index(headers=keyed()))
print(json.dumps(told))
