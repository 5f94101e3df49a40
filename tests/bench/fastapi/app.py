"""What is usually built: FastAPI on uvicorn workers (uvloop, httptools), profiles in Redis, models in ONNX Runtime.

Started by `make bench-peers`, which says in the environment where the artifacts and Redis are. Models run on the event loop: a
worker has one core, and handing a millisecond of work to a thread costs more than it gives. The profile is one value of Redis,
fetched over a Unix socket; the body is checked by pydantic from its bytes; the answer is written by orjson.
"""
import contextlib
import os
import uuid

import orjson
import pydantic
import redis.asyncio
from fastapi import FastAPI, Request, Response

from pipeline import Pipeline

pipeline = Pipeline(os.environ["BENCH_ARTIFACTS"])
# A pool that lets requests wait: the default one fails them, from a hundred on.
profiles = redis.asyncio.Redis(
    connection_pool=redis.asyncio.BlockingConnectionPool(
        connection_class=redis.asyncio.UnixDomainSocketConnection, path=os.environ["BENCH_REDIS"], max_connections=32, timeout=None
    )
)


class Wanted(pydantic.BaseModel):
    """The same question that a node of Rockpool is asked."""

    user_id: str
    slot: str
    count: int = 10
    deadline_ms: int = 0
    exclude: list[str] = []


@contextlib.asynccontextmanager
async def lifespan(_):
    await profiles.ping()
    yield
    await profiles.aclose()


app = FastAPI(lifespan=lifespan, openapi_url=None)


@app.post("/v1/recommend")
async def recommend(request: Request):
    try:
        wanted = Wanted.model_validate_json(await request.body())
    except pydantic.ValidationError as error:
        return Response(error.json(), 422, media_type="application/json")
    stored = await profiles.get("profile:" + wanted.user_id)
    items, served_by = pipeline.recommend(orjson.loads(stored) if stored else None, wanted.count, wanted.exclude)
    retrieval, ranker = pipeline.versions
    answer = {
        "id": uuid.uuid4(),
        "items": [{"item": item, "score": score, "reason": reason} for item, score, reason in items],
        "served_by": served_by,
        "retrieval": retrieval,
        "ranker": ranker,
    }
    return Response(orjson.dumps(answer), media_type="application/json")
