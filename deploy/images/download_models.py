#!/usr/bin/env python3
"""Gets models from a Hugging Face hub, whole and checked, with nothing but Python's own library.

    download_models.py download [--token-file FILE] REPOSITORY@REVISION=DIRECTORY...
    download_models.py await REPOSITORY@REVISION=DIRECTORY...

download fetches what a worker reads (config, tokenizer, safetensors), goes on where an earlier run
broke off, compares sizes and digests with those the hub tells, and writes DIRECTORY/.facet/complete.json
last. await returns once that file is there. HF_ENDPOINT names the hub or a mirror. Exit status 1: trying
again may help; 2: it would not.
"""

import argparse
import hashlib
import http.client
import json
import os
import pathlib
import re
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

WANTED = re.compile(r"^[\w.-]+\.(json|safetensors|jinja)$")  # No folders: originals in other formats.
CHUNK_BYTES = 1 << 20
ATTEMPTS_MAX = 6
TIMEOUT_SECONDS = 60
PROGRESS_SECONDS = 5
AWAIT_SECONDS = 2


class Refused(Exception):
    """Trying again would not help."""


class Broken(Exception):
    """The connection ended early, or the bytes were wrong."""


def say(*words):
    print(*words, flush=True)


class Hub:
    def __init__(self, endpoint, token):
        self._endpoint = endpoint.rstrip("/")
        self._token = token

    def open(self, path, first_byte=0):
        request = urllib.request.Request(self._endpoint + path)
        request.add_header("User-Agent", "facet-download")
        if first_byte:
            request.add_header("Range", f"bytes={first_byte}-")
        if self._token:  # Large files are redirected to other hosts, which must not see it.
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (401, 403):
                    raise Refused(f"{self._endpoint}{path}: {error.code}; the model may be gated: accept its "
                                  "licence on the hub, and give a token that may read it") from None
                if error.code == 404:
                    raise Refused(f"{self._endpoint}{path}: not found") from None
                raise Broken(f"{path}: {error.code} {error.reason}") from None
        except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
            raise Broken(f"{path}: {error}") from None

    def info(self, repository, revision):
        """The commit, and name → (size, digest): sha256 of large files, git's blob id of others."""
        path = f"/api/models/{repository}/revision/{urllib.parse.quote(revision, safe='')}?blobs=true"
        with self.open(path) as reply:
            answer = json.load(reply)
        files = {}
        for it in answer["siblings"]:
            if WANTED.match(it["rfilename"]):
                large = it.get("lfs")
                files[it["rfilename"]] = (
                    (large["size"], "sha256:" + large["sha256"]) if large
                    else (it["size"], "git:" + it["blobId"]))
        return answer["sha"], files


def hasher(digest, size):
    if digest.startswith("sha256:"):
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size)


class Model:
    """One directory and what shall be in it."""

    def __init__(self, argument):
        found = re.fullmatch(r"([\w.-]+/[\w.-]+)@([\w./-]+)=(/.+)", argument)
        if not found:
            raise Refused(f"{argument} is not REPOSITORY@REVISION=/DIRECTORY")
        self.repository, self.revision, directory = found.groups()
        self.directory = pathlib.Path(directory)
        self._state = self.directory / ".facet"
        self._complete = self._state / "complete.json"

    def __str__(self):
        return f"{self.repository}@{self.revision}"

    def completed(self):
        """What complete.json says, if it is about this model and the files have their sizes."""
        try:
            record = json.loads(self._complete.read_text())
            sizes = {name: (self.directory / name).stat().st_size for name in record["files"]}
        except FileNotFoundError:
            return None
        if [record["repository"], record["revision"]] != [self.repository, self.revision]:
            raise Refused(f"{self.directory} holds {record['repository']}@{record['revision']}, not {self}; "
                          "give each revision a directory of its own: workers may be reading this one")
        return record if sizes == {name: it["size"] for name, it in record["files"].items()} else None

    def download(self, hub):
        if self.completed():
            say(f"{self}: complete")
            return
        commit, files = hub.info(self.repository, self.revision)
        if not any(name.endswith(".safetensors") for name in files):
            raise Refused(f"{self} has no safetensors")
        self._state.mkdir(parents=True, exist_ok=True)
        missing = {name: it for name, it in files.items() if not self._have(name, *it)}
        needed = sum(size - self._part_bytes(name) for name, (size, _) in missing.items())
        free = shutil.disk_usage(self.directory).free
        if needed > free:
            raise Refused(f"{self}: {needed} bytes are needed in {self.directory}, and {free} are free")
        say(f"{self}: commit {commit}, {len(missing)} of {len(files)} files to get, {needed / 1e9:.2f} GB")
        for name, (size, digest) in sorted(missing.items()):
            self._fetch_with_patience(hub, commit, name, size, digest)
        self._write(self._complete, {
            "repository": self.repository, "revision": self.revision, "commit": commit,
            "files": {name: {"size": size, "digest": digest} for name, (size, digest) in files.items()}})
        say(f"{self}: complete, every file checked")

    def _part(self, name):
        return self._state / f"{name}.part"

    def _part_bytes(self, name):
        return self._part(name).stat().st_size if self._part(name).exists() else 0

    def _have(self, name, size, digest):
        """Whether an earlier run has checked this file and put it in its place."""
        try:
            checked = json.loads((self._state / f"{name}.checked").read_text())
            return (checked == {"size": size, "digest": digest}
                    and (self.directory / name).stat().st_size == size)
        except FileNotFoundError:
            return False

    @staticmethod
    def _write(path, record):
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(json.dumps(record, indent=1))
        os.replace(fresh, path)

    def _fetch_with_patience(self, hub, commit, name, size, digest):
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                self._fetch(hub, commit, name, size, digest)
                break
            except Broken as error:
                say(f"{name}: {error} (attempt {attempt} of {ATTEMPTS_MAX})")
                if attempt == ATTEMPTS_MAX:
                    raise
                time.sleep(min(30, 2 ** (attempt - 1)))
        os.replace(self._part(name), self.directory / name)
        self._write(self._state / f"{name}.checked", {"size": size, "digest": digest})

    def _fetch(self, hub, commit, name, size, digest):
        """Leaves the whole, right file in the part."""
        have = self._part_bytes(name)
        hashed = hasher(digest, size)
        if have > size:
            self._part(name).unlink()
            have = 0
        with open(self._part(name), "ab") as part:
            if have < size:
                path = f"/{self.repository}/resolve/{commit}/{urllib.parse.quote(name)}"
                with hub.open(path, have) as reply:
                    if have and reply.status != 206:  # A server without ranges begins again.
                        part.truncate(0)
                        have = 0
                    self._copy(reply, part, name, have, size)
            part.flush()
            os.fsync(part.fileno())
        if self._part_bytes(name) != size:
            raise Broken(f"ended after {self._part_bytes(name)} of {size} bytes")
        with open(self._part(name), "rb") as part:
            while chunk := part.read(CHUNK_BYTES):
                hashed.update(chunk)
        if hashed.hexdigest() != digest.partition(":")[2]:
            self._part(name).unlink()
            raise Broken(f"its digest is {hashed.hexdigest()}, not {digest}")

    @staticmethod
    def _copy(reply, part, name, have, size):
        begin, said, first = time.monotonic(), time.monotonic(), have
        try:
            while chunk := reply.read(CHUNK_BYTES):
                part.write(chunk)
                have += len(chunk)
                if have > size:
                    raise Broken(f"sends more than {size} bytes")
                if time.monotonic() - said > PROGRESS_SECONDS:
                    said = time.monotonic()
                    rate = (have - first) / (said - begin)
                    say(f"{name}: {have / 1e9:.2f} of {size / 1e9:.2f} GB, {100 * have // size} %, "
                        f"{rate / 1e6:.0f} MB/s, {(size - have) / rate:.0f} s to go")
        except (OSError, http.client.HTTPException) as error:
            raise Broken(repr(error)) from None

    def wait(self):
        said = 0.0
        while not self.completed():
            if time.monotonic() - said > 30:
                said = time.monotonic()
                say(f"{self}: not complete in {self.directory} yet")
            time.sleep(AWAIT_SECONDS)
        say(f"{self}: complete")


def main():
    parser = argparse.ArgumentParser(description="Gets models from a Hugging Face hub.")
    parser.add_argument("verb", choices=["download", "await"])
    parser.add_argument("--token-file", type=pathlib.Path)
    parser.add_argument("models", nargs="+", metavar="REPOSITORY@REVISION=DIRECTORY")
    arguments = parser.parse_args()
    try:
        models = [Model(it) for it in arguments.models]
        if arguments.verb == "await":
            for model in models:
                model.wait()
            return 0
        token = arguments.token_file.read_text().strip() if arguments.token_file else ""
        hub = Hub(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), token)
        for model in models:
            model.download(hub)
    except Refused as error:
        print(f"download_models: {error}", file=sys.stderr)
        return 2
    except (Broken, OSError) as error:
        print(f"download_models: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
