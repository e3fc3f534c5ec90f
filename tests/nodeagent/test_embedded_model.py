"""The generated model: the same bytes everywhere, readable by others, mended when damaged."""

import subprocess
import sys
from pathlib import Path

import pytest

from nodeagent.embedded import gguf, tiny_model
from nodeagent.embedded.cores import usable_cores
from nodeagent.embedded.options import EngineOptions, engine_argv, parse
from nodeagent.embedded.server import CannotStartError, make_plan


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model.ensure_tiny_model(tmp_path / "cache")


def test_the_generated_bytes_are_those_of_the_pinned_digest(model):
    assert tiny_model.is_intact(model)
    assert 400_000 < model.stat().st_size < 700_000


def test_the_official_reader_reads_it(model):
    reader = pytest.importorskip("gguf").GGUFReader(model)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors["blk.1.ffn_down.weight"].data.shape == (tiny_model.WIDTH, tiny_model.FEED_FORWARD)
    assert tensors["output.weight"].data.std() > 0
    assert len(reader.fields["tokenizer.ggml.tokens"].data) == tensors["token_embd.weight"].data.shape[0]


def test_an_intact_file_is_not_written_again(model):
    before = model.stat()
    tiny_model.ensure_tiny_model(model.parent)
    assert (model.stat().st_ino, model.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("damage", [lambda whole: whole[:100_000], lambda whole: b"", lambda whole: whole[:-1] + b"\1"])
def test_a_damaged_file_is_replaced(model, damage):
    model.write_bytes(damage(model.read_bytes()))
    assert tiny_model.is_intact(tiny_model.ensure_tiny_model(model.parent))
    assert [path.name for path in model.parent.iterdir()] == [tiny_model.FILE_NAME]


def test_several_processes_may_generate_it_at_once(tmp_path):
    code = (
        "import sys, pathlib; from nodeagent.embedded.tiny_model import *; ensure_tiny_model(pathlib.Path(sys.argv[1]))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [writer.wait(30) for writer in writers] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == [tiny_model.FILE_NAME]


def test_the_header_tells_what_the_engine_needs_to_know(model):
    header = gguf.read_header(model)
    assert (header.architecture, header.context_length, header.pooling) == ("llama", tiny_model.CONTEXT_TRAIN, None)


def test_the_header_ends_before_the_vocabulary(model, tmp_path):
    whole = model.read_bytes()
    head = tmp_path / "head.gguf"
    head.write_bytes(whole[: whole.index(b"tokenizer.ggml.model") + 20])
    assert gguf.read_header(head) == gguf.read_header(model)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "starts with b''"),
        (b"PK\3\4 a zip", "a GGUF file with b'GGUF'"),
        (b"GGUF\3\0\0\0", "cut off"),
        (b"GGUF\1\0\0\0" + bytes(16), "version 1"),
        (b"GGUF\3\0\0\0" + bytes(8) + b"\1" + bytes(7) + b"\xff" * 8, "damaged"),
        (b"GGUF\3\0\0\0" + bytes(8) + b"\1" + bytes(7) + b"\1" + bytes(7) + b"k\x63\0\0\0", "damaged"),
    ],
)
def test_what_is_not_gguf_is_named(tmp_path, content, says):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(gguf.NotGgufError, match=says):
        gguf.read_header(path)


def write_header(path: Path, **more: gguf.Value) -> Path:
    gguf.write(path, {"general.architecture": "bert", "bert.tags": ["a", "b"], "bert.sizes": [1, 2], **more}, [])
    return path


@pytest.mark.parametrize(
    ("pooling", "operations"),
    [(1, ("embeddings",)), (2, ("embeddings",)), (4, ("rerank",)), (0, ("chat", "completion"))],
)
def test_a_model_made_for_embeddings_is_recognised_by_its_pooling(tmp_path, pooling, operations):
    path = write_header(tmp_path / "nomic.gguf", **{"bert.pooling_type": pooling, "bert.context_length": 512})
    plan = make_plan(EngineOptions(model=path))
    assert (plan.operations, plan.embedding, plan.pooling) == (operations, pooling != 0, None)
    assert (plan.alias, plan.context) == ("nomic", 512)


def test_a_long_context_is_not_allocated_unasked(tmp_path):
    path = write_header(tmp_path / "m.gguf", **{"bert.context_length": 131_072})
    assert make_plan(EngineOptions(model=path)).context == 8192
    assert make_plan(EngineOptions(model=path, context=32_768)).context == 32_768


def test_a_chat_model_serves_embeddings_when_asked(tmp_path):
    plan = make_plan(EngineOptions(model=write_header(tmp_path / "m.gguf"), embedding=True))
    assert (plan.operations, plan.pooling) == (("chat", "completion", "embeddings"), "mean")


def test_the_tiny_model_serves_chat_and_embeddings_unasked(tmp_path):
    plan = make_plan(EngineOptions(cache_dir=tmp_path))
    assert plan.operations == ("chat", "completion", "embeddings")
    assert plan.alias == tiny_model.ALIAS


def test_a_cache_that_cannot_be_written_names_the_option(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStartError, match="--cache-dir"):
        make_plan(EngineOptions(cache_dir=tmp_path / "file"))


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(),
        EngineOptions(model=Path("m.gguf"), embedding=False, gpu_layers=0, threads=3, context=99, alias="a b"),
        EngineOptions(
            cache_dir=Path("c"), embedding=True, pooling="cls", predict=7, parent_pid=4, verbose=True, port=1
        ),
    ],
)
def test_the_command_line_reads_back_as_the_options_it_was_built_from(options):
    argv = engine_argv(options)
    assert argv[1:3] == ["-m", "nodeagent.embedded"]
    assert parse(argv[3:]) == options


@pytest.mark.parametrize("argv", [["--port", "99999"], ["--ctx", "0"], ["--threads", "many"], ["--modle", "x"]])
def test_a_wrong_command_line_is_refused(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(argv)
    assert stop.value.code == 2
    assert argv[0] in capsys.readouterr().err


@pytest.mark.parametrize(("quota", "most"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", 4096)])
def test_a_container_quota_bounds_the_cores(tmp_path, quota, most):
    (tmp_path / "cpu.max").write_text(quota)
    assert 1 <= usable_cores(tmp_path / "cpu.max") <= most


def test_serving_imports_neither_numpy_nor_the_agent():
    code = "import sys, nodeagent.embedded.server, xllamacpp; print(*sys.modules)"
    modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert {"numpy", "asyncio", "msgspec", "grpc", "gguf"}.isdisjoint(modules)
