"""Kernels for the pages, forked from one process that has imported what all of them need.

A kernel of its own costs each page almost two seconds of a processor, nearly all for imports.
With this extension Jupyter starts this file as the kernel, which asks a server for a fork of
itself and waits for its end. Without `fork`, as on Windows, the usual kernel runs the pages.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ADDRESS = "XPLAYERS_DOCS_KERNELS"  # the variable that names the socket of the server


def start(app):
    """Start the server, and offer this file as the kernel `python3`."""
    if sys.platform != "linux":
        return
    folder = tempfile.TemporaryDirectory(prefix="xplayers-docs-")
    spec = {
        "argv": [sys.executable, __file__, "kernel", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
    }
    kernels = Path(folder.name, "kernels", "python3")
    kernels.mkdir(parents=True)
    Path(kernels, "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    os.environ["JUPYTER_PATH"] = folder.name
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    os.environ[ADDRESS] = str(Path(folder.name, "socket"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.environ[ADDRESS])
    listener.listen(64)
    server = subprocess.Popen(
        [sys.executable, __file__, "serve", str(listener.fileno())],
        stdin=subprocess.PIPE,
        pass_fds=[listener.fileno()],
    )

    def stop(app, exception):
        server.stdin.close()
        server.wait()
        listener.close()
        folder.cleanup()

    app.connect("build-finished", stop)


def serve(descriptor):
    """Fork a kernel for everyone who asks, until Sphinx closes the standard input."""
    import ipykernel.kernelapp  # noqa: F401
    import matplotlib.pyplot  # noqa: F401

    import xplayers  # noqa: F401

    def reap(*args):
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    signal.signal(signal.SIGCHLD, reap)
    listener = socket.socket(fileno=descriptor)
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        asker, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return run(asker)
        asker.close()
    return None


def run(asker):
    """Be the kernel of the process that asked: be interrupted as it is, and end when it ends."""
    request = json.loads(asker.makefile().readline())
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])

    def watch():
        while asker.recv(1):
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    from ipykernel.kernelapp import launch_new_instance

    parent = f"--IPKernelApp.parent_handle={os.getppid()}"  # with which it ends too
    launch_new_instance(["-f", request["connection"], parent, "--HistoryManager.enabled=False"])
    os._exit(0)  # at once: there is nothing to clean up


def ask(connection):
    """Ask the server for a kernel, and wait until it has ended."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ[ADDRESS])
        request = {
            "connection": connection,
            "folder": os.getcwd(),
            "environment": dict(os.environ),
        }
        server.sendall(json.dumps(request).encode() + b"\n")
        signal.signal(signal.SIGINT, lambda *args: server.send(b"!"))
        server.recv(1)


def setup(app):
    """Start the server before the pages are read."""
    app.connect("builder-inited", start)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    serve(int(sys.argv[2])) if sys.argv[1] == "serve" else ask(sys.argv[2])
