"""What is hidden, and what must stay readable."""

from __future__ import annotations

import json
from typing import Any

import pytest

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
