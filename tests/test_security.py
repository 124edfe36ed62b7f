"""Nothing in the package unpickles, evaluates, starts a shell, trusts foreign code or listens beyond this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import duplexdata
from duplexdata.cli import app
from duplexdata.config import Config, as_dict
from duplexdata.speech.cosyvoice.bridge import BridgeSettings
from duplexdata.training.config import DpoConfig, SftConfig
from tests.security_rules import RULES, found

PACKAGE = Path(duplexdata.__file__).parent
CHECKOUT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(CHECKOUT / "flows").glob("*.py"), *(CHECKOUT / ".ci").glob("*.py")])

BROKEN = {
    "pickle": [
        "import pickle",
        "import pickle as p, json",
        "from pickle import loads",
        "import dill",
        "from joblib import load",
        "import shelve",
        "import marshal",
        "import cloudpickle\ncloudpickle.loads(b'')",
        "from cloudpickle import loads",
        "import importlib\nimportlib.import_module('pickle')",
        "__import__('_pickle')",
        "import pandas as pd\npd.read_pickle('x')",
    ],
    "weights": [
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "from torch import load as read\nread('x')",
        "import torch\ntorch.load('x', weights_only=flag)",
        "import torch\ntorch.hub.load('a/b', 'c')",
        "from transformers import AutoModelForCausalLM\nAutoModelForCausalLM.from_pretrained('x')",
        "import transformers\ntransformers.MimiModel.from_pretrained('x', use_safetensors=False)",
        "from transformers import pipeline\npipeline('asr', model='x')",
    ],
    "results": [
        "from prefect import task\n@task\ndef f(): ...",
        "import prefect\n@prefect.flow(name='x')\ndef f(): ...",
        "from prefect import flow\nflow(f, persist_result=True)",
    ],
    "numpy": [
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', None, True)",
        "from numpy import load\nload('x', allow_pickle=flag)",
    ],
    "evaluation": ["eval(text)", "exec('x = 1')", "compile(text, 'f', 'exec')", "import builtins\nbuiltins.eval(text)"],
    "shell": [
        "import os\nos.system('ls')",
        "from os import popen\npopen('ls')",
        "import subprocess\nsubprocess.run(command, shell=True)",
        "import subprocess\nsubprocess.run(['ls'], shell=flag)",
        "import subprocess as s\ns.Popen('ls -l')",
        "import subprocess\nsubprocess.check_output(f'ls {folder}')",
        "import subprocess\nsubprocess.run('ls ' + folder)",
        "import subprocess\nsubprocess.run(' '.join(parts))",
        "import subprocess\nsubprocess.run(args='ls')",
        "import asyncio\nasyncio.create_subprocess_shell('ls')",
        "import subprocess\nsubprocess.getoutput('ls')",
    ],
    "yaml": [
        "import yaml\nyaml.load(f)",
        "import yaml\nyaml.load(f, Loader=yaml.Loader)",
        "import yaml\nyaml.load(f, yaml.FullLoader)",
        "from yaml import load, UnsafeLoader\nload(f, Loader=UnsafeLoader)",
        "import yaml\nyaml.full_load(f)",
        "import yaml\nyaml.unsafe_load_all(f)",
    ],
    "remote code": [
        "f(trust_remote_code=True)",
        "def f(trust_remote_code=True): ...",
        "def f(*, trust_remote_code: bool = True): ...",
        "class C:\n    trust_remote_code: bool = True",
        "class C:\n    trust_remote_code: bool = field(default=True)",
        "def f(trust_remote_code: bool = typer.Option(True)): ...",
        "options = {'trust_remote_code': True}",
        "settings.trust_remote_code = True",
    ],
    "bind": [
        "serve('0.0.0.0', 80)",
        "address = '0.0.0.0:8080'",
        "def serve(host='example.org'): ...",
        "class S:\n    host: str = ''",
        "HTTPServer(('', 8000), Handler)",
        "socket.bind(('192.168.0.1', 8000))",
        "serve(host='::')",
        "Cluster(dashboard_address=':8787')",
        "options = {'dashboard_address': ':8787'}",
    ],
    "temporary": ["import tempfile\ntempfile.mktemp()", "from tempfile import mktemp\nmktemp()"],
    "certificates": [
        "import httpx\nhttpx.get(url, verify=False)",
        "client = httpx2.AsyncClient(verify=False)",
        "session.verify = False",
        "import ssl\nssl._create_unverified_context()",
        "import ssl\ncontext.verify_mode = ssl.CERT_NONE",
        "context.check_hostname = False",
        "session.get(url, ssl=False)",
    ],
    "archives": [
        "archive.extractall(folder)",
        "archive.extract(member, folder)",
        "import shutil\nshutil.unpack_archive('x')",
    ],
}
"""For each rule what it must find."""

WHOLE = [
    "from concurrent.futures import ProcessPoolExecutor",
    "import cloudpickle\ncloudpickle.register_pickle_by_value(m)",
    "import torch\ntorch.load('x', weights_only=True)",
    "from transformers import AutoTokenizer, AutoModel\nAutoTokenizer.from_pretrained('x')",
    "from transformers import AutoModel\nAutoModel.from_pretrained('x', use_safetensors=True)",
    "import numpy as np\nnp.load('x')\nnp.load('x', allow_pickle=False)",
    "from prefect import task\n@task(name='x', persist_result=False)\ndef f(): ...",
    "import re\nre.compile('x')\nmodel.eval()\nast.literal_eval('1')",
    "import subprocess\nsubprocess.run([sys.executable, '-c', code])\nsubprocess.run(command, shell=False)",
    "import yaml\nyaml.safe_load(f)\nyaml.load(f, Loader=yaml.SafeLoader)",
    "f(trust_remote_code=trust)\ndef g(trust_remote_code: bool = False): ...",
    "def serve(host='127.0.0.1', port=0): ...\nHTTPServer(('localhost', 0), H)\nserve(dashboard_address='127.0.0.1:0')",
    "import tempfile\ntempfile.mkstemp()\ntempfile.TemporaryDirectory()",
    "client = httpx2.AsyncClient(verify=True)",
    "def f(host=None): ...\ntext = 'a :: b'",
]
"""What no rule may find: a rule that finds everything says nothing."""


@pytest.mark.parametrize(("rule", "source"), [(rule, s) for rule, sources in BROKEN.items() for s in sources])
def test_a_rule_finds_what_breaks_it(rule: str, source: str) -> None:
    assert rule in {r for r, _ in found(source)}


def test_every_rule_is_tried() -> None:
    assert set(BROKEN) == set(RULES)


@pytest.mark.parametrize("source", WHOLE)
def test_rules_let_through_what_is_right(source: str) -> None:
    assert found(source) == []


def test_the_package_breaks_no_rule() -> None:
    assert len(SOURCES) > 150
    broken = [
        f"{path.name}:{line}: {rule}" for path in SOURCES for rule, line in found(path.read_text(encoding="utf-8"))
    ]
    assert broken == []


def test_code_of_a_model_is_never_run_unless_a_setting_says_so() -> None:
    def values(settings: object, key: str = "") -> Iterator[tuple[str, object]]:
        if isinstance(settings, dict):
            for k, v in settings.items():
                yield from values(v, k)
        else:
            yield key, settings

    trusted = [
        [v for k, v in values(as_dict(c)) if k == "trust_remote_code"] for c in (Config(), SftConfig(), DpoConfig())
    ]
    assert all(found == [False] * len(found) and found for found in trusted)
    for path in [*CHECKOUT.glob("flows/*.yaml"), *CHECKOUT.glob("prompts/**/*.yaml")]:
        assert all(
            v is not True for doc in yaml.safe_load_all(path.read_text()) for k, v in values(doc) if "trust" in k
        )


def test_servers_bind_to_loopback_unless_told_otherwise() -> None:
    hosts = [
        (command.name, option.default)
        for command in _commands(typer.main.get_command(app))
        for option in command.params
        if option.name in ("host", "bind", "listen", "address")
    ]
    assert ("serve-cosyvoice", "127.0.0.1") in hosts
    assert {default for _, default in hosts} <= {"127.0.0.1", None}
    assert BridgeSettings(Path(), Path(), None).host == "127.0.0.1"


def _commands(command: Any) -> Iterator[Any]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from _commands(inner)


def test_what_the_checkout_tells_prefect_stays_on_this_machine() -> None:
    import tomllib

    settings = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["prefect"]
    assert settings["api"]["url"].startswith("http://127.0.0.1:")
    assert settings["server"]["analytics_enabled"] is False
