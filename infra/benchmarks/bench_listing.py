"""What listing a large bucket takes: CPU time and the peak of memory, from its pages to recordings, and no body read.

    python infra/benchmarks/bench_listing.py [--keys 100000]

A server in a process of its own, on loopback, makes up pages of 1,000 keys, each said to be of 10 MB; a request for
anything but a page is counted and answered with 404.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing.connection import Connection

from command_line import Parser, at_least, run

PAGE, SIZE_BYTES = 1000, 10_000_000


def page_of(first: int, num_keys: int) -> bytes:
    """One page of ListObjectsV2, from key number ``first`` on."""
    last = min(first + PAGE, num_keys)
    token = f"<NextContinuationToken>{last}</NextContinuationToken>" if last < num_keys else ""
    rows = "".join(
        f"<Contents><Key>in/speaker-{n // 100:05}/recording-{n:07}.flac</Key><Size>{SIZE_BYTES}</Size>"
        f"<LastModified>2020-01-01T00:00:00.000Z</LastModified><ETag>&quot;{n:032x}&quot;</ETag></Contents>"
        for n in range(first, last)
    )
    return (
        f'<?xml version="1.0"?><ListBucketResult><Name>b</Name><KeyCount>{last - first}</KeyCount><MaxKeys>{PAGE}'
        f"</MaxKeys><IsTruncated>{str(bool(token)).lower()}</IsTruncated>{token}{rows}</ListBucketResult>"
    ).encode()


def serve(told: Connection, num_keys: int) -> None:
    """Serve until the parent asks for the counts of pages and of other requests."""
    counts = {"pages": 0, "others": 0}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            is_page = "list-type" in query
            counts["pages" if is_page else "others"] += 1
            body = page_of(int(query.get("continuation-token", ["0"])[0]), num_keys) if is_page else b""
            self.send_response(200 if is_page else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.timeout = 0.2
    told.send(server.server_port)
    while not told.poll():
        server.handle_request()
    told.send(counts)


def peak_mb() -> float:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    """List, and print what it took."""
    parser = Parser(__doc__)
    parser.add_argument("--keys", type=at_least(1), default=100_000)
    num_keys = parser.parse_args().keys
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs, num_keys), daemon=True)
    server.start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ours.recv()}", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
    }  # fmt: skip
    from syllabary.shards.ingest.config import IngestConfig
    from syllabary.shards.ingest.sources.listing import list_source, tell_source

    config = IngestConfig()
    import s3fs  # noqa: F401  its weight is no matter of the listing

    before, started, begun = peak_mb(), time.process_time(), time.monotonic()
    recordings = list_source(tell_source("s3://b/in", config), config).recordings
    cpu_s, wall_s = time.process_time() - started, time.monotonic() - begun
    ours.send("end")
    counts = ours.recv()
    server.join()
    print(f"{len(recordings):,} recordings of {counts['pages']} pages, {counts['others']} other requests")
    print(f"{cpu_s:.1f} s CPU, {wall_s:.1f} s; memory: {before:.0f} MB before, {peak_mb():.0f} MB at most")


if __name__ == "__main__":
    run(main)
