"""What no line of the package may do, told from its syntax tree. `found` gives what breaks which rule, and where."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping

_PICKLES = {"pickle", "cPickle", "_pickle", "shelve", "marshal", "dill", "joblib", "cloudpickle", "jsonpickle"}
_HARMLESS = {"cloudpickle.register_pickle_by_value"}
"""Says how functions of the flow travel to workers of its own cluster; reads nothing."""
_SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}
_YAML = {"yaml.load", "yaml.load_all"}
_YAML_NEVER = {f"yaml.{x}{y}" for x in ("full_load", "unsafe_load") for y in ("", "_all")}
_PROCESS = {f"subprocess.{x}" for x in ("run", "call", "check_call", "check_output", "Popen")}
_SHELLS = {
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell", "pty.spawn", "commands.getoutput",
}  # fmt: skip
_PREFECT = {"prefect.flow", "prefect.task", "prefect.flows.flow", "prefect.tasks.task"}
_UNPACK = {"shutil.unpack_archive"}
_LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
_HOSTS = {"host", "bind", "bind_host", "listen", "dashboard_address", "server_host"}
_EVERYWHERE = ("0.0.0.0", "::", "[::]")

Names = Mapping[str, str]
Rule = Callable[[ast.AST, Names], bool]


def dotted(node: ast.AST, names: Names) -> str:
    """What a name or attribute means by the file's imports: `np.load` is "numpy.load"; "" for anything else."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (base := dotted(node.value, names)):
        return f"{base}.{node.attr}"
    return ""


def imported_names(tree: ast.AST) -> dict[str, str]:
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for a in node.names:
                names[a.asname or a.name.split(".")[0]] = a.name if a.asname else a.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def _call(node: ast.AST, names: Names) -> str:
    return dotted(node.func, names) if isinstance(node, ast.Call) else ""


def _argument(node: ast.Call, name: str) -> ast.expr | None:
    return next((k.value for k in node.keywords if k.arg == name), None)


def _is(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _pickle(node: ast.AST, names: Names) -> bool:
    if isinstance(node, ast.ImportFrom):
        top, _, _ = (node.module or "").partition(".")
        return top in _PICKLES and not all(f"{node.module}.{a.name}" in _HARMLESS for a in node.names)
    if isinstance(node, ast.Import):
        return any((top := a.name.split(".")[0]) in _PICKLES and top != "cloudpickle" for a in node.names)
    if isinstance(node, ast.Attribute):
        if dotted(node, names) in _HARMLESS:
            return False
        return dotted(node.value, names) == "cloudpickle" or node.attr in ("read_pickle", "to_pickle", "allow_pickle")
    if isinstance(node, ast.Call) and _call(node, names) in ("importlib.import_module", "__import__"):
        first = node.args[0] if node.args else None
        return isinstance(first, ast.Constant) and str(first.value).split(".")[0] in _PICKLES
    return False


def _weights(node: ast.AST, names: Names) -> bool:
    """Weights that may be pickles: `torch.load`, and models of `transformers` that may fall back to it."""
    called = _call(node, names)
    if not isinstance(node, ast.Call):
        return False
    if called in ("torch.load", "torch.serialization.load"):
        return not _is(_argument(node, "weights_only"), True)
    if called in ("torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"):
        return True
    owner, _, method = called.rpartition(".")
    model = "Model" in owner.rpartition(".")[2] and method == "from_pretrained"
    if called in ("transformers.pipeline",):
        options = _argument(node, "model_kwargs")
        return not (isinstance(options, ast.Dict) and _entry(options, "use_safetensors", True))
    return model and not _is(_argument(node, "use_safetensors"), True)


def _entry(node: ast.Dict, key: str, value: object) -> bool:
    return any(_is_text(k, key) and _is(v, value) for k, v in zip(node.keys, node.values, strict=True))


def _is_text(node: ast.AST | None, text: str) -> bool:
    return isinstance(node, ast.Constant) and node.value == text


def _results(node: ast.AST, names: Names) -> bool:
    """Prefect keeps results of flows and tasks as pickles, unless told to keep none."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return any(dotted(d, names) in _PREFECT for d in node.decorator_list)  # without a call: as it is by default
    return (
        isinstance(node, ast.Call)
        and _call(node, names) in _PREFECT
        and not _is(_argument(node, "persist_result"), False)
    )


def _numpy(node: ast.AST, names: Names) -> bool:
    if not isinstance(node, ast.Call) or not _call(node, names).startswith("numpy."):
        return False
    allowed = _argument(node, "allow_pickle")
    third = _call(node, names) == "numpy.load" and len(node.args) > 2
    return third or (allowed is not None and not _is(allowed, False))


def _evaluation(node: ast.AST, names: Names) -> bool:
    return _call(node, names).removeprefix("builtins.") in ("eval", "exec", "compile")


def _shell(node: ast.AST, names: Names) -> bool:
    called = _call(node, names)
    if not isinstance(node, ast.Call):
        return False
    if called in _SHELLS or called.startswith(("os.exec", "os.spawn")):
        return True
    if called not in _PROCESS:
        return False
    shell = _argument(node, "shell")
    command = node.args[0] if node.args else _argument(node, "args")
    return (shell is not None and not _is(shell, False)) or _makes_text(command)


def _makes_text(node: ast.AST | None) -> bool:
    """Whether an expression can be seen to be a string."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    if isinstance(node, ast.BinOp):
        return _makes_text(node.left) or _makes_text(node.right)
    if isinstance(node, ast.Call):
        made = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return made in ("join", "format", "str", "quote")
    return isinstance(node, ast.JoinedStr)


def _yaml(node: ast.AST, names: Names) -> bool:
    called = _call(node, names)
    if called in _YAML_NEVER:
        return True
    if not isinstance(node, ast.Call) or called not in _YAML:
        return False
    loader = _argument(node, "Loader") or (node.args[1] if len(node.args) > 1 else None)
    return loader is None or dotted(loader, names) not in _SAFE_LOADERS


def _remote_code(node: ast.AST, names: Names) -> bool:
    """`True` given to, or the default of, anything called `trust_remote_code`."""
    del names
    name = "trust_remote_code"
    if isinstance(node, ast.keyword):
        return node.arg == name and _is(node.value, True)
    if isinstance(node, ast.Dict):
        return _entry(node, name, True)
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        named = any(name in (getattr(t, "id", ""), getattr(t, "attr", "")) for t in targets)
        return named and node.value is not None and _is_or_makes_true(node.value)
    return any(a.arg == name and _is_or_makes_true(d) for a, d in _defaults(node))


def _is_or_makes_true(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):  # a dataclass's field, an option of the command line
        return any(_is(x, True) for x in [*node.args, *(k.value for k in node.keywords if k.arg == "default")])
    return _is(node, True)


def _defaults(node: ast.AST) -> Iterator[tuple[ast.arg, ast.expr]]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return
    plain = [*node.args.posonlyargs, *node.args.args]
    yield from zip(plain[len(plain) - len(node.args.defaults) :], node.args.defaults, strict=True)
    yield from ((a, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d is not None)


def _bind(node: ast.AST, names: Names) -> bool:
    """An address that is not this machine's own: as a literal anywhere, or as what a host is by default."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value in _EVERYWHERE or node.value.startswith(("0.0.0.0:", "[::]:"))
    if isinstance(node, ast.AnnAssign):
        return getattr(node.target, "id", "") in _HOSTS and _is_foreign(node.value)
    if isinstance(node, ast.Call):
        bound = [*node.args[:1], *(k.value for k in node.keywords if k.arg in ("address", "server_address"))]
        method = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if method in ("bind", "create_server") or method.endswith(("Server", "HTTPServer")):
            return any(isinstance(b, ast.Tuple) and b.elts and _is_foreign(b.elts[0]) for b in bound)
        return any(k.arg in _HOSTS and _is_foreign(k.value) for k in node.keywords)
    if isinstance(node, ast.Dict):
        return any(
            isinstance(k, ast.Constant) and k.value in _HOSTS and _is_foreign(v)
            for k, v in zip(node.keys, node.values, strict=True)
        )
    return any(a.arg in _HOSTS and _is_foreign(d) for a, d in _defaults(node))


def _is_foreign(node: ast.AST | None) -> bool:
    """A literal that is not loopback; "" means every address."""
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        return False
    host, colon, port = node.value.rpartition(":")
    return (host if colon and port.isdigit() and node.value not in _LOOPBACK else node.value) not in _LOOPBACK


def _temporary(node: ast.AST, names: Names) -> bool:
    return _call(node, names) in ("tempfile.mktemp", "os.tempnam", "os.tmpnam")


def _certificates(node: ast.AST, names: Names) -> bool:
    if isinstance(node, ast.keyword):
        return node.arg in ("verify", "verify_ssl", "ssl", "check_hostname") and _is(node.value, False)
    if isinstance(node, ast.Attribute):
        return dotted(node, names) in ("ssl._create_unverified_context", "ssl.CERT_NONE")
    if isinstance(node, ast.Assign):
        attributes = {t.attr for t in node.targets if isinstance(t, ast.Attribute)}
        return bool(attributes & {"verify", "check_hostname"}) and _is(node.value, False)
    return False


def _archives(node: ast.AST, names: Names) -> bool:
    """Archives name the files that they are unpacked to."""
    method = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
    return _call(node, names) in _UNPACK or method in ("extract", "extractall")


RULES: Mapping[str, Rule] = {
    "pickle": _pickle,
    "weights": _weights,
    "results": _results,
    "numpy": _numpy,
    "evaluation": _evaluation,
    "shell": _shell,
    "yaml": _yaml,
    "remote code": _remote_code,
    "bind": _bind,
    "temporary": _temporary,
    "certificates": _certificates,
    "archives": _archives,
}


def found(source: str) -> list[tuple[str, int]]:
    """(rule, line) of whatever breaks a rule."""
    tree = ast.parse(source)
    names = imported_names(tree)
    lines = {
        (rule, getattr(n, "lineno", 0)) for n in ast.walk(tree) for rule, broken in RULES.items() if broken(n, names)
    }
    return sorted(lines)
