"""What is hidden, and what must stay readable."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.runs import offline_dirs, run_dir, run_script

from fasttrack.context.redaction import REDACTED, looks_secret, redact, redact_argv

SECRET = "s3cr3t-value"

# The names that a tracker must know, in every spelling.
NAMES = (
    "token",
    "secret",
    "password",
    "passwd",
    "api_key",
    "apikey",
    "credential",
    "private_key",
    "access_key",
    "auth",
)


def camel(name: str) -> str:
    """Return `private_key` as `privateKey`."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_secret_name_is_known_bare_prefixed_suffixed_and_in_upper_case(name: str) -> None:
    """`api_key`, `API_KEY`, `hf_api_key`, `WANDB_API_KEY`, `apiKey`, `wandb.api_key`."""
    spellings = [name, name.upper(), f"hf_{name}", f"WANDB_{name.upper()}", camel(name)]
    spellings += [f"{name}_2", f"wandb.{name}", f"hf-{name}", name.capitalize()]

    assert [spelling for spelling in spellings if not looks_secret(spelling)] == []


@pytest.mark.parametrize("name", [name for name in NAMES if name != "auth"])
def test_secret_names_are_known_at_the_end_of_camel_case(name: str) -> None:
    """`hfToken`, `wandbApiKey`, `awsSecret`."""
    assert looks_secret("wandb" + camel("_" + name))


@pytest.mark.parametrize("name", ["basicAuth", "xAuth", "authKey", "authHeader"])
def test_auth_is_known_in_camel_case(name: str) -> None:
    """JSON-born configurations spell it so."""
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name", ["api-key", "X-Api-Key", "private-key", "aws-access-key", "x api key", "api.key"]
)
def test_words_of_a_secret_name_may_be_joined_by_anything(name: str) -> None:
    """HTTP headers and command-line options use hyphens."""
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "access_token",
        "refresh_token",
        "aws_secret_access_key",
        "client_secret",
        "credentials",
        "access_key_id",
        "passphrase",
        "Authorization",
        "db_passwd",
        "auth_type",  # on purpose: rather too much than too little
    ],
)
def test_usual_secret_names_are_known(name: str) -> None:
    """What the world's services call them."""
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "max_tokens",
        "num_tokens",
        "maxTokens",
        "tokens",
        "tokens_per_second",
        "tokenizer",
        "tokenizer_path",
        "tokenization",
        "token_count",
        "token_len",
        "token_type_ids",
        "pad_token_id",
        "eos_token_id",
        "token_limit",
        "num_token_types",
        "author",
        "authors",
        "authority",
        "key",
        "keys",
        "key_dim",
        "num_key_value_heads",
        "monkey",
        "pass",
        "bypass",
        "passes",
        "compass",
        "lr",
        "",
    ],
)
def test_names_of_a_model_or_a_person_stay(name: str) -> None:
    """A language model's configuration must be readable: it is what the run is about."""
    assert not looks_secret(name)


@pytest.mark.parametrize(
    "name", ["eos_token", "pad_token", "mask_token", "image_token", "token_dim", "token_embedding"]
)
def test_special_tokens_of_a_tokenizer_stay(name: str) -> None:
    """`eos_token: </s>` is in every Hugging Face configuration."""
    assert not looks_secret(name)


# --- configuration --------------------------------------------------------------------------------


def test_secrets_are_hidden_at_every_depth_and_the_rest_stays() -> None:
    """Dicts in lists in dicts; the original is not touched."""
    config: dict[str, Any] = {
        "lr": 0.1,
        "wandb": {"api_key": SECRET, "project": "p"},
        "datasets": [{"name": "lego", "auth": {"user": "u", "pass": SECRET}}, ("x", [SECRET[:0]])],
        "credentials": [SECRET],
        "max_tokens": 512,
    }
    before = json.dumps(config)

    clean = redact(config)

    assert clean == {
        "lr": 0.1,
        "wandb": {"api_key": REDACTED, "project": "p"},
        "datasets": [{"name": "lego", "auth": REDACTED}, ["x", [""]]],
        "credentials": REDACTED,
        "max_tokens": 512,
    }
    assert json.dumps(config) == before


@pytest.mark.parametrize("value", [None, "", False, 0, [], {}])
def test_empty_secret_is_shown_as_it_is(value: Any) -> None:
    """That no password was set is worth knowing and betrays nothing."""
    assert redact({"password": value}) == {"password": value}


@pytest.mark.parametrize("value", [SECRET, 12345, [SECRET], {"a": SECRET}, (SECRET,)])
def test_secret_of_any_type_is_hidden(value: Any) -> None:
    """A PIN is a number, a credential often a mapping."""
    assert redact({"password": value}) == {"password": REDACTED}


@pytest.mark.parametrize("value", [1, 1.5, None, True, b"bytes"])
def test_other_values_pass_through(value: Any) -> None:
    """Only strings and containers are looked into."""
    assert redact(value) is value


def test_keys_that_are_no_strings_are_no_names() -> None:
    """A mapping by number is data."""
    assert redact({1: "a", None: {"token": SECRET}}) == {1: "a", None: {"token": REDACTED}}


# --- URLs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://user:s3cr3t@host/repo.git", "https://host/repo.git"),
        ("https://s3cr3t@github.com/a/b", "https://github.com/a/b"),
        ("postgres://u:s3cr3t@host:5432/db", "postgres://host:5432/db"),
        ("redis://:s3cr3t@host/0", "redis://host/0"),
        ("git+https://u:s3cr3t@h/r@v1", "git+https://h/r@v1"),
        ("see https://s3cr3t@a/x and ftp://u:s3cr3t@b/y", "see https://a/x and ftp://b/y"),
    ],
)
def test_credentials_are_cut_from_urls(url: str, clean: str) -> None:
    """User and password go, the address stays."""
    assert redact({"remote": [url]}) == {"remote": [clean]}


@pytest.mark.parametrize(
    "url",
    [
        "git@github.com:a/b.git",
        "https://host/path@v2/x",
        "https://host:8080/",
        "mail user@example.org",
        "file:///home/u@host/x",
        "s3://bucket/key@1",
    ],
)
def test_addresses_without_credentials_stay(url: str) -> None:
    """An `@` alone is no credential."""
    assert redact(url) == url


def test_password_with_an_unescaped_at_sign_is_cut_whole() -> None:
    """People write URLs by hand."""
    assert redact("https://u:s3@cr3t@host/x@v1") == "https://host/x@v1"


# --- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Client(api_key='s3cr3t', url='x')", "Client(api_key=[redacted], url='x')"),
        ("{'hub': {'token': 's3cr3t'}, 'n': 1}", "{'hub': {'token': [redacted]}, 'n': 1}"),
        ('{"wandb_api_key": "s3 cr3t"}', '{"wandb_api_key": [redacted]}'),
        ("Namespace(tokens=5, auth=['s3cr3t', 's3cr3t'])", "Namespace(tokens=5, auth=[redacted])"),
        (
            "https://h/x?lr=1&access_token=s3cr3t&b=2",
            "https://h/x?lr=1&access_token=[redacted]&b=2",
        ),
        ("host=h password=s3cr3t dbname=d", "host=h password=[redacted] dbname=d"),
        ("Authorization: Bearer s3cr3t", "Authorization: [redacted]"),
        ("train.py --api-key=s3cr3t --lr=1", "train.py --api-key=[redacted] --lr=1"),
        ("a=b=token=s3cr3t", "a=b=token=[redacted]"),
        ("password=(s3cr3t api_key=s3cr3t) x", "password=[redacted] x"),
        ("token=a;secret=b", "token=[redacted];secret=[redacted]"),
    ],
)
def test_what_is_assigned_to_a_secret_name_inside_a_text_is_hidden(text: str, clean: str) -> None:
    """Objects without a plain form are written as their repr, which often shows everything."""
    assert redact([text]) == [clean]
    assert redact(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "Linear(in_features=1, bias=True)",
        "max_tokens=5, tokenizer=bert, eos_token='</s>'",
        "[12:30:00] loss: 0.5",
        "C:/data",
        "token",
        "token=",
        "the secret of it",
        "x" * 100_000 + "=" + "a:b=" * 10_000,
    ],
    ids=lambda text: text[:20],
)
def test_ordinary_texts_stay(text: str) -> None:
    """And long ones take no long time."""
    assert redact(text) == text


# --- environment ----------------------------------------------------------------------------------


def test_values_of_secret_variables_are_hidden_wherever_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`${oc.env:HF_TOKEN}` resolved under an innocent name, `--hub $HF_TOKEN` by the shell."""
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    monkeypatch.setenv("HF_TOKEN_OF_ADMIN", "hf_0123456789-more")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)

    config = {"hub": "hf_0123456789", "urls": ["x?k=" + "k" * 40], "b": "hf_0123456789-more"}

    assert redact(config) == {"hub": REDACTED, "urls": [f"x?k={REDACTED}"], "b": REDACTED}
    assert redact_argv(["t.py", "--hub", "hf_0123456789"]) == ["t.py", "--hub", REDACTED]


def test_ordinary_values_of_variables_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short words, paths, and whatever stands under other names."""
    monkeypatch.setenv("AUTH", "disabled")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/ssh/agent.1")
    monkeypatch.setenv("EXPERIMENT", "baseline-of-december")
    config = {"mode": "disabled", "dir": "/tmp/ssh/agent.1", "x": "baseline-of-december"}

    assert redact(config) == config


# --- command lines --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "clean"),
    [
        (["--hf_token=s3cr3t"], ["--hf_token=[redacted]"]),
        (["--hf_token", "s3cr3t", "--lr", "1"], ["--hf_token", "[redacted]", "--lr", "1"]),
        (["--api-key", "s3cr3t"], ["--api-key", "[redacted]"]),
        (["-password", "s3cr3t"], ["-password", "[redacted]"]),
        (["--token=a=s3cr3t"], ["--token=[redacted]"]),
        (["logger.api_key=s3cr3t"], ["logger.api_key=[redacted]"]),
        (["+wandb.token=s3cr3t"], ["+wandb.token=[redacted]"]),
        (["-e", "WANDB_API_KEY=s3cr3t"], ["-e", "WANDB_API_KEY=[redacted]"]),
        (["--repo", "https://u:s3cr3t@h/x"], ["--repo", "https://h/x"]),
        (["--repo=https://u:s3cr3t@h/x"], ["--repo=https://h/x"]),
    ],
)
def test_secrets_are_hidden_in_every_form_of_option(argv: list[str], clean: list[str]) -> None:
    """With `=` and without, Hydra's overrides, `docker run -e` style."""
    assert redact_argv(["train.py", *argv]) == ["train.py", *clean]


@pytest.mark.parametrize("name", ["--api-key", "--wandb-api-key", "--private-key", "--access-key"])
def test_hyphenated_option_with_equals_is_hidden(name: str) -> None:
    """The most usual spelling there is, and the docstring promises it."""
    assert redact_argv([f"{name}={SECRET}"]) == [f"{name}={REDACTED}"]


@pytest.mark.parametrize(
    "argv",
    [
        ["train.py", "--lr=0.1", "--tokenizer", "bert", "--max-tokens=5", "--max-tokens", "5"],
        ["train.py", "--author", "me", "--key", "k", "--tokenizer-path=/x", "a=b", "-v", ""],
        [],
    ],
)
def test_ordinary_command_lines_stay(argv: list[str]) -> None:
    """The command line is how a run is repeated."""
    assert redact_argv(argv) == argv


def test_switch_with_a_secret_name_hides_no_option_after_it() -> None:
    """`--use-auth --lr 1`: what follows is not its value."""
    assert redact_argv(["--use-auth", "--lr", "1"]) == ["--use-auth", "--lr", "1"]


def test_command_line_itself_is_not_changed() -> None:
    """It is `sys.argv`, the program's own."""
    argv = ["--token", SECRET]

    redact_argv(argv)

    assert argv == ["--token", SECRET]


# --- a whole run ----------------------------------------------------------------------------------

PLANTED = {
    place: f"s3cr3t-{place}-0123456789abcdef"
    for place in (
        "config_key",
        "config_deep",
        "config_repr",
        "config_url",
        "config_from_environment",
        "argv",
        "remote",
        "environment",
        "wandb_key",
    )
}
TRAINING = """
import json, os, sys
from types import SimpleNamespace
from support.runs import make_tracker
planted = json.loads(os.environ.pop("PLANTED"))

class Client:
    def __repr__(self):
        return f"Client(api_key={planted['config_repr']!r})"

config = {
    "lr": 0.1,
    "hub_token": planted["config_key"],
    "parts": [{"db": SimpleNamespace(password=planted["config_deep"])}],
    "client": Client(),
    "data": f"s3://user:{planted['config_url']}@bucket/x",
    "hub": os.environ["HF_TOKEN"],
}
with make_tracker(config=config) as tracker:
    tracker.log_config(config)
    tracker.log_metrics({"a": 1.0}, 0)
print(tracker.get_run_id())
"""


def files_with(secret: bytes, base: Path) -> list[str]:
    """Return the files under `base` that hold `secret` in their bytes or name, git's own aside."""
    return [
        str(path.relative_to(base))
        for path in base.rglob("*")
        if ".git" not in path.parts
        and (secret.decode() in path.name or (path.is_file() and secret in path.read_bytes()))
    ]


def test_no_planted_secret_is_in_any_file_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Journal, metadata, logs, staged artifacts, and all that wandb itself writes offline."""
    remote = f"https://{PLANTED['remote']}:x-oauth-basic@host/x.git"
    for command in ("init -q", f"remote add origin {remote}"):
        subprocess.run(["git", *command.split()], check=True)
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    monkeypatch.setenv("WANDB_API_KEY", PLANTED["wandb_key"])
    monkeypatch.setenv("HF_TOKEN", PLANTED["config_from_environment"])
    monkeypatch.setenv("DATABASE_PASSWORD", PLANTED["environment"])
    monkeypatch.setenv("PLANTED", json.dumps(PLANTED))

    result = run_script(TRAINING, "--api-key", PLANTED["argv"], "--lr", "0.1")

    leaks = {place: files_with(secret.encode(), tmp_path) for place, secret in PLANTED.items()}
    assert {place: files for place, files in leaks.items() if files} == {}
    assert [secret for secret in PLANTED.values() if secret in result.stderr] == []
    directory = run_dir(tmp_path, result.stdout.strip())
    (journal,) = directory.glob("segment-*.jsonl")
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    (metadata,) = (entry["values"] for entry in entries if entry["kind"] == "metadata")
    assert metadata["git"]["remote"] == "https://host/x.git"
    assert metadata["argv"][1:] == ["--api-key", REDACTED, "--lr", "0.1"]
    assert entries[0]["config"]["hub_token"] == REDACTED
    assert len(offline_dirs(tmp_path)) == 1
    assert files_with(b"s3://bucket/x", tmp_path)  # the search does find what is there
