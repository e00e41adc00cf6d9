"""`python -m dbsam.worker PORT`: connects to the application that started it, and computes for it.

The key is in the environment. It ends when the application has ended, however that ended.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
import socket
import sys

from dbsam.worker.channel import BlockingChannel
from dbsam.worker.keys import KEY_VARIABLE, is_proof, new_nonce, proof
from dbsam.worker.protocol import VERSION, Answer, Challenge, Welcome, decode, encode
from dbsam.worker.server import Worker, end_at_once

_CONNECT_SECONDS = 30.0


def main() -> int:
    """Runs the worker; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m dbsam.worker", description=__doc__)
    parser.add_argument("port", type=int, help="port of this computer on which the application waits")
    port = parser.parse_args().port
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    faulthandler.enable()
    # Ctrl+C in the application's terminal is the application's: it cancels what runs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    key = os.environ.pop(KEY_VARIABLE, "")
    if not key:
        sys.stderr.write(f"{KEY_VARIABLE} is not set: this process is started by DB-SAM, not by hand.\n")
        return 2
    channel = BlockingChannel(socket.create_connection(("127.0.0.1", port), _CONNECT_SECONDS))
    welcome = _shake_hands(channel, key)
    channel.reader.trust()
    Worker(channel, welcome).serve()
    end_at_once()
    return 0


def _shake_hands(channel: BlockingChannel, key: str) -> Welcome:
    challenge = _next(channel)
    if not isinstance(challenge, Challenge) or challenge.version != VERSION:
        raise SystemExit(f"The application speaks another version of the worker's protocol than {VERSION}.")
    nonce = new_nonce()
    channel.send(*encode(Answer(VERSION, proof(key, "worker", challenge.nonce), nonce, os.getpid())))
    welcome = _next(channel)
    if not isinstance(welcome, Welcome) or not is_proof(welcome.proof, key, "application", nonce):
        raise SystemExit("What waits on this port doesn't know the key: it is not the application.")
    return welcome


def _next(channel: BlockingChannel) -> object:
    frames: list = []
    while not frames:
        received = channel.receive(_CONNECT_SECONDS)
        if not received:
            if received is None:
                raise SystemExit("The application has ended.")
            continue
        frames = received
    return decode(frames[0])


if __name__ == "__main__":
    sys.exit(main())
