"""An S3-compatible server on loopback for tests: moto's, one request at a time. Prints its port once it listens.

One request at a time, because a create-only put is atomic in S3 and moto looks first and writes then. Written as a
program of its own, so that its imports and its warnings stay out of the tests.
"""

from __future__ import annotations

import logging

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
