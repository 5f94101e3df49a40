#!/usr/bin/env python3
"""Fetches what Rockpool does not ship: example data and the ONNX Runtime library. Nothing else in Rockpool is Python.

    python3 deploy/fetch.py [data] [runtime]

Each is a file inside a wheel of the Python package index, fetched by pip, checked by SHA-256 and put into
~/.cache/rockpool, where Rockpool looks for it. What is there already and has the right checksum is not fetched again.
"""
import hashlib
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

CACHE = pathlib.Path.home() / ".cache" / "rockpool"
SETS = {
    "data": {
        "what": "MovieLens-100K: 100,000 film ratings",
        "wheel": "recbole==1.2.1",
        "size": "2.1 MB",
        "licence": "GroupLens: research use, no redistribution (so it is fetched, never committed)",
        "pip": [],
        "files": {
            f"recbole/dataset_example/ml-100k/ml-100k.{part}": (f"data/ml-100k/ml-100k.{part}", digest)
            for part, digest in {
                "inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
                "item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
                "user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
            }.items()
        },
    },
    "runtime": {
        "what": "ONNX Runtime 1.32.0, x86-64 Linux (elsewhere, and without it, Rockpool uses tract)",
        "wheel": "onnxruntime==1.32.0",
        "size": "34.8 MB unpacked",
        "licence": "MIT",
        "pip": ["--python-version", "3.11", "--platform", "manylinux_2_28_x86_64"],
        "files": {
            "onnxruntime/capi/libonnxruntime.so.1.32.0": (
                "lib/libonnxruntime.so.1.32.0",
                "6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f",
            )
        },
    },
}


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(name):
    wanted = SETS[name]
    targets = [(inside, CACHE / to, digest) for inside, (to, digest) in wanted["files"].items()]
    if all(path.is_file() and sha256(path) == digest for _, path, digest in targets):
        print(f"{name}: there already ({CACHE})", flush=True)
        return
    print(f"{name}: fetching {wanted['what']}\n  {wanted['wheel']}, {wanted['size']}, licence: {wanted['licence']}", flush=True)
    if importlib.util.find_spec("pip") is None:
        raise OSError("this Python has no pip; install it (Debian: apt-get install python3-pip)")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "-d", folder]
        subprocess.run([*command, *wanted["pip"], wanted["wheel"]], check=True)
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for inside, path, digest in targets:
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
                temporary.write_bytes(archive.read(inside))
                if (got := sha256(temporary)) != digest:
                    temporary.unlink()
                    sys.exit(f"{inside} of {wanted['wheel']}: expected SHA-256 {digest}, got {got}; nothing was kept")
                temporary.replace(path)
    print(f"{name}: done ({CACHE})", flush=True)


def main():
    names = sys.argv[1:] or list(SETS)
    if unknown := [name for name in names if name not in SETS]:
        sys.exit(f"{__doc__}\nunknown: {' '.join(unknown)}; known: {' '.join(SETS)}")
    for name in names:
        try:
            fetch(name)
        except (subprocess.CalledProcessError, OSError) as error:
            if name != "runtime":
                sys.exit(f"{name}: {error}\nNothing was changed; run this again when that is put right.")
            print(f"runtime: {error}\n  going on without it: Rockpool will use tract, which is slower", flush=True)


if __name__ == "__main__":
    main()
