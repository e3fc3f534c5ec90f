"""Whom the gateway is compared with: nginx, plain aiohttp, and (with --peers) SGLang's router and LiteLLM.

Each is started on the tested core in front of the same upstream. One that cannot run here raises
BenchError with the reason, and the run goes on without it.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

from kit import native
from kit.processes import REPO, BenchError, Processes, free_port
from kit.stack import CLIENT_KEY, MODEL

Start = Callable[[Processes, int, Sequence[int]], int]
VENVS = REPO / ".cache" / "peers"
_INSTALL_S = 600

_NGINX = """
daemon off; worker_processes 1; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.err warn;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  client_max_body_size 0;
  upstream engine {{ server 127.0.0.1:{upstream}; keepalive 4096; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_request_buffering off; proxy_read_timeout 300s;
    }}
  }}
}}
"""

_LITELLM = """
model_list:
  - model_name: {model}
    litellm_params: {{model: "openai/{model}", api_base: "http://127.0.0.1:{upstream}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
litellm_settings: {{telemetry: false, num_retries: 0}}
"""


def nginx(programs: Processes, upstream: int, cores: Sequence[int]) -> int:
    """One nginx worker as a plain proxy with kept connections, without buffering; its port."""
    binary = native.tool("nginx", "nginx-light")
    port = free_port()
    config = programs.folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=programs.folder, upstream=upstream, port=port))
    started = programs.start("nginx", [binary, "-c", str(config), "-p", str(programs.folder)], cores=cores)
    started.wait_until_answers(port, "/v1/models")
    return port


def plain_aiohttp(programs: Processes, upstream: int, cores: Sequence[int]) -> int:
    """bench/peers/aiohttp_proxy.py; its port."""
    port = free_port()
    script = REPO / "bench" / "peers" / "aiohttp_proxy.py"
    started = programs.start("aiohttp", [sys.executable, str(script), str(port), str(upstream)], cores=cores)
    started.wait_until_answers(port, "/v1/models")
    return port


def sglang_router(programs: Processes, upstream: int, cores: Sequence[int]) -> int:
    """SGLang's router (Rust) from its wheel; its port."""
    python = _installed("sglang-router", "sglang-router")
    port, metrics = free_port(), free_port()
    argv = [
        python, "-m", "sglang_router.launch_router", "--host", "127.0.0.1", "--port", str(port),
        "--worker-urls", f"http://127.0.0.1:{upstream}", "--policy", "round_robin",
        "--prometheus-port", str(metrics), "--prometheus-host", "127.0.0.1", "--log-level", "error",
    ]  # fmt: skip
    started = programs.start("sglang-router", argv, cores=cores)
    started.wait_until_answers(port, "/v1/models", within_s=60)
    return port


def litellm(programs: Processes, upstream: int, cores: Sequence[int]) -> int:
    """LiteLLM's proxy from its wheel, one worker; its port."""
    python = _installed("litellm", "litellm[proxy]")
    port = free_port()
    config = programs.folder / "litellm.yaml"
    config.write_text(_LITELLM.format(model=MODEL, upstream=upstream, key=CLIENT_KEY))
    argv = [str(Path(python).parent / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    # Its list of prices is read from the wheel, not fetched.
    started = programs.start("litellm", argv, cores=cores, env={"LITELLM_LOCAL_MODEL_COST_MAP": "True"})
    started.wait_until_answers(port, "/health/liveliness", within_s=120)
    return port


def _installed(name: str, requirement: str) -> str:
    """The Python of a virtual environment of its own that has the package. Raises BenchError."""
    folder = VENVS / name
    python, stamp = folder / "bin" / "python", folder / ".installed"
    if stamp.exists():
        return str(python)
    print(f"installing {requirement} into {folder.relative_to(REPO)} (once; this takes a while) ...", flush=True)
    venv.create(folder, with_pip=True)
    argv = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", requirement]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{requirement} could not be installed within {_INSTALL_S} s") from None
    if done.returncode:
        raise BenchError(f"{requirement} could not be installed: {done.stderr.strip().splitlines()[-1]}")
    stamp.touch()
    return str(python)
