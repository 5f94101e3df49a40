"""The models, run by Triton's clients, over REST and gRPC. Arguments: host:port, CA file, app key. Prints one JSON object."""

import asyncio
import json
import ssl
import sys

import numpy
import tritonclient.grpc
import tritonclient.http
import tritonclient.http.aio
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
    # Packed, as the clients do where they are asked to.
    told[name]["packed"] = True
    for algorithm in ["gzip", "deflate"]:
        packed = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
        for binary in [True, False]:
            asked = tensors(tritonclient.http.InferInput, model, binary_data=binary)
            wanted = [tritonclient.http.InferRequestedOutput(output, binary_data=binary)]
            answer = rest.infer(name, asked, outputs=wanted, headers=keyed(), **packed)
            told[name]["packed"] &= bool(numpy.array_equal(said[True], answer.as_numpy(output)))
        answer = grpc.infer(name, over_grpc, headers=keyed(), compression_algorithm=algorithm)
        told[name]["packed"] &= bool(numpy.array_equal(said[True], answer.as_numpy(output)))



async def with_asyncio():
    """It accepts gzip, and unpacks tensors only."""
    async with tritonclient.http.aio.InferenceServerClient(URL, ssl=True, ssl_context=ssl.create_default_context(cafile=CA)) as client:
        server = await client.get_server_metadata()
        model = await client.get_model_metadata("ranker", headers=keyed())
        answer = await client.infer("ranker", tensors(tritonclient.http.InferInput, model), headers=keyed())
        try:
            await client.get_model_metadata("other", headers=keyed())
        except InferenceServerException as error:
            return [server["name"], list(answer.as_numpy(model["outputs"][0]["name"]).shape)[0], error.message()]


told["asyncio"] = asyncio.run(with_asyncio())
told["absent"] = refused(lambda: rest.get_model_metadata("other", headers=keyed()))
told["no_key"] = refused(lambda: rest.infer("ranker", asked))
asked[0] = tritonclient.http.InferInput(model["inputs"][0]["name"], [3, 1, 1], model["inputs"][0]["datatype"])
told["wrong_shape"] = refused(lambda: rest.infer("ranker", asked, headers=keyed()))
ranker = rest.get_model_metadata("ranker", headers=keyed())
output = ranker["outputs"][0]["name"]
asked = tensors(tritonclient.http.InferInput, ranker)
classes = [tritonclient.http.InferRequestedOutput(output, class_count=2)]
told["classified"] = refused(lambda: rest.infer("ranker", asked, outputs=classes, headers=keyed()))
told["sequence"] = refused(lambda: rest.infer("ranker", asked, headers=keyed(), sequence_id=7, sequence_start=True))
none = []
for spec in ranker["inputs"]:
    none.append(tritonclient.http.InferInput(spec["name"], [0] + spec["shape"][1:], spec["datatype"]))
    none[-1].set_data_from_numpy(numpy.zeros(none[-1].shape(), triton_to_np_dtype(spec["datatype"])), binary_data=False)
below = tensors(tritonclient.grpc.InferInput, ranker)
below[0].set_shape([-1] + ranker["inputs"][0]["shape"][1:])
told["grpc"]["below"] = refused(lambda: grpc.infer("ranker", below, headers=keyed()))
told["no_rows"] = refused(lambda: rest.infer("ranker", none, headers=keyed()))
classes = [tritonclient.grpc.InferRequestedOutput(output, class_count=2)]
told["grpc"]["classified"] = refused(lambda: grpc.infer("ranker", over_grpc, outputs=classes, headers=keyed()))
told["grpc"]["sequence"] = refused(lambda: grpc.infer("ranker", over_grpc, headers=keyed(), sequence_id=7, sequence_start=True))
told["grpc"]["absent"] = refused(lambda: grpc.get_model_metadata("other", headers=keyed()))
told["grpc"]["no_key"] = refused(lambda: grpc.infer("ranker", over_grpc))
told["grpc"]["wrong_shape"] = refused(lambda: grpc.infer("ranker", over_grpc[1:], headers=keyed()))
told["grpc"]["no_such_call"] = refused(lambda: grpc.get_model_repository_index(headers=keyed()))
print(json.dumps(told))
