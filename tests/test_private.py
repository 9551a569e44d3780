"""Private names of libraries: an upgrade that changes one fails here, by its name."""

from __future__ import annotations

import ast
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import segtrain
from segtrain.private import copy_tensors, is_compiler_error, set_collective_timeout

ROOT = Path(segtrain.__file__).parent
PUBLIC = {"_exit"}  # os._exit is documented


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def private_names(tree: ast.Module) -> set[str]:
    """Return the names with a leading underscore that a file takes from elsewhere."""
    definitions = (ast.FunctionDef, ast.ClassDef)
    own = {node.name for node in ast.walk(tree) if isinstance(node, definitions)}
    own |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)
            and isinstance(n.ctx, ast.Store)}  # fmt: skip
    own |= {n.target.id for n in ast.walk(tree) if isinstance(n, ast.AnnAssign)
            and isinstance(n.target, ast.Name)}  # fmt: skip
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Import):
            found |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.ImportFrom):
            found |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            found.add(str(getattr(node.args[1], "value", "")))
    return {name for name in found - own if is_private(name)}


def test_private_names_are_found():
    text = """
from torch.nn import _Norm
import library._inner
from library._module import public
call(other._attribute, getattr(other, "_text", None), os._exit, __file__)
class Own:
    _field: int
    def _own(self):
        self._value = self._own(self._field)
"""
    assert private_names(ast.parse(text)) == {"_Norm", "_inner", "_module", "_attribute", "_text"}


def test_only_one_file_uses_private_names():
    trees = {path: ast.parse(path.read_text()) for path in ROOT.rglob("*.py")}
    users = {path.relative_to(ROOT): names for path, tree in trees.items()
             if (names := private_names(tree))}  # fmt: skip
    assert users == {
        Path("private.py"): {"_foreach_copy_", "_is_avx512_bf16_supported", "_set_pg_timeout"}
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_tensors_are_copied_in_place(dtype: torch.dtype):
    targets = [torch.zeros(2, 3, dtype=dtype), torch.zeros((), dtype=dtype)]
    before = [target.data_ptr() for target in targets]
    sources = [torch.arange(6).view(2, 3).to(dtype), torch.tensor(7).to(dtype)]
    copy_tensors(targets, sources)
    assert all(torch.equal(t, s) for t, s in zip(targets, sources, strict=True))
    assert [target.data_ptr() for target in targets] == before


@pytest.mark.parametrize("public", [True, False])
@pytest.mark.filterwarnings("ignore:.*_set_pg_timeout. is deprecated:FutureWarning")
def test_collectives_get_another_timeout(public: bool, tmp_path: Path, monkeypatch):
    if not public:
        monkeypatch.delattr(dist, "set_timeout", raising=False)
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        set_collective_timeout(timedelta(seconds=7))
        backend = dist.group.WORLD._get_backend(torch.device("cpu"))
        assert backend.options._timeout == timedelta(seconds=7)
    finally:
        dist.destroy_process_group()


def test_errors_of_torch_compile_are_recognised():
    from torch._inductor.exc import InductorError

    def broken(*_: object) -> None:
        raise ValueError("no such kernel")

    with pytest.raises(Exception, match="no such kernel") as raised:
        torch.compile(lambda x: x + 1, backend=broken)(torch.ones(2))
    assert is_compiler_error(raised.value)
    assert is_compiler_error(InductorError.__new__(InductorError))
    assert not is_compiler_error(ValueError("no"))
