"""What is hidden, and what must stay readable."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support.runs import offline_dirs, run_script

from fasttrack.delivery.backends.wandb.file import read_payloads
from fasttrack.redaction import (
    REDACTED,
    StreamRedactor,
    looks_secret,
    redact,
    redact_argv,
    redact_text,
)

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
        "cookie",
        "Set-Cookie",
        "session_cookies",
        "jwt",
        "jwtSecret",
        "SENTRY_DSN",
        "dsn",
        "slack_webhook",
        "webhookUrl",
        "WEBHOOK",
        "pin",
        "card_pin",
        "pinCode",
        "db_pwd",
        "passcode",
        "signing_key",
        "encryptionKey",
        "ssh_key",
        "AccountKey",
        "connection_string",
        "conn_str",
        "otp",
        "totp_seed",
        "bearer",
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
        "pin_memory",
        "pin_memory_device",
        "spin",
        "pinned",
        "cookiecutter_template",
        "connection_timeout",
        "PWD",
        "OLDPWD",
        "primary_key",
        "sort_key",
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


@pytest.mark.parametrize("value", [True, False])
def test_switch_under_a_secret_name_stays(value: bool) -> None:
    """`use_auth_token: True` tells how the run was made, and betrays nothing."""
    assert redact({"use_auth_token": value}) == {"use_auth_token": value}
    assert redact(f"Namespace(use_auth_token={value})") == f"Namespace(use_auth_token={value})"


def test_lists_of_pairs_are_taken_for_mappings() -> None:
    """Headers, `dict.items()`, what a form sends."""
    pairs = [("X-Api-Key", SECRET), ["lr", 0.1], ("password", ""), ("data", {"token": SECRET})]

    clean = redact({"headers": pairs})

    assert clean == {
        "headers": [
            ["X-Api-Key", REDACTED],
            ["lr", 0.1],
            ["password", ""],
            ["data", {"token": REDACTED}],
        ]
    }


def test_lists_of_two_words_are_no_pairs() -> None:
    """The columns of a data set may be called so."""
    assert redact({"columns": ["token", "label"]}) == {"columns": ["token", "label"]}


def test_a_named_value_is_hidden_by_its_name() -> None:
    """Kubernetes and its like spell variables so."""
    env = [{"name": "DB_PASSWORD", "value": SECRET}, {"name": "LR", "value": "0.1"}]

    assert redact(env) == [{"name": "DB_PASSWORD", "value": REDACTED}, env[1]]


def test_command_line_inside_a_configuration_is_redacted_as_one() -> None:
    """`config={"argv": sys.argv}` is usual."""
    config = {"argv": ["train.py", "--api-key", SECRET, "-p", SECRET, "--lr", "0.1"]}

    clean = redact(config)

    assert clean == {"argv": ["train.py", "--api-key", REDACTED, "-p", REDACTED, "--lr", "0.1"]}


def test_a_secret_that_is_a_key_is_hidden_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accounts by their token."""
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")

    assert redact({"hf_0123456789": 1}) == {REDACTED: 1}


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
        ("[('api_key', 's3cr3t'), ('lr', 1)]", "[('api_key', [redacted]), ('lr', 1)]"),
        ("[(b'cookie', b's3cr3t')]", "[(b'cookie', [redacted])]"),
        (r'{"password": "s3\"cr3t", "a": 1}', '{"password": [redacted], "a": 1}'),
        ("{'token': 's3cr3t'\n          's3cr3t', 'a': 1}", "{'token': [redacted], 'a': 1}"),
        ("train.py --api-key s3cr3t --lr 1", "train.py --api-key [redacted] --lr 1"),
        ("mysql -u me -p s3cr3t db", "mysql -u me -p [redacted] db"),
        ("Cookie: a=s3cr3t; b=s3cr3t\nHost: h", "Cookie: [redacted]\nHost: h"),
        ("curl -H 'Cookie: a=s3cr3t; b=2' url", "curl -H 'Cookie: [redacted]' url"),
        ("SENTRY_DSN=https://s3cr3t@h/1", "SENTRY_DSN=[redacted]"),
        ("api_key: s3cr3t", "api_key: [redacted]"),
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
        "ssh -p 22 host",
        "use_auth_token=True, token=None",
        "val/token_acc 0.5, 3.1 tokens/s, key: value",
        "DataLoader(pin_memory=True)",
        "--use-auth --lr 1",
        "the password is asked for",
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


def test_a_secret_is_known_as_repr_json_and_urls_spell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`print(os.environ)` escapes newlines and quotes; a URL escapes the rest."""
    monkeypatch.setenv("MY_CREDENTIAL", secret := 'line-1\nline "2" ü/')

    texts = [secret, repr({"a": secret}), json.dumps([secret]), quote(secret, safe="")]

    assert [text for text in texts if "line" in redact_text(text)] == []


def test_a_secret_set_after_the_start_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_dotenv()` comes when it comes."""
    assert redact_text("x hunter2-hunter2") == "x hunter2-hunter2"
    monkeypatch.setenv("LATE_PASSWORD", "hunter2-hunter2")

    assert redact_text("x hunter2-hunter2") == f"x {REDACTED}"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (".netrc", "machine api.wandb.ai\n  login user\n  password {key}\n"),
        (".netrc", "machine a login b password c3c3c3c3 machine h login user password {key}\n"),
        (".config/wandb/settings", "[default]\nentity = me\napi_key = {key}\n"),
    ],
)
def test_the_key_that_the_client_finds_in_a_file_is_known(file: str, text: str) -> None:
    """`wandb login` writes it there; no variable holds it."""
    key = "0123456789abcdef" * 2 + "01234567"
    path = Path.home() / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(key=key))
    path.chmod(0o600)

    assert redact_text(f"key is {key}!") == f"key is {REDACTED}!"


def test_a_key_file_that_cannot_be_read_is_no_matter() -> None:
    """A directory, or garbage: no secret is in there that the client could use."""
    (Path.home() / ".netrc").mkdir()
    (Path.home() / "_netrc").write_text("machine\x00 nonsense")

    assert redact_text("text") == "text"


# --- forms ----------------------------------------------------------------------------------------

LETTERS = "Ab1Cd2Ef3Gh4Ij5Kl6Mn7Op8Qr9St0Uv1Wx2Yz3Ab4Cd5"
# Made here, so that no scanner takes this file for a leak.
FORMS = {
    "github": "ghp" + "_" + LETTERS[:36],
    "github_fine": "github_pat" + "_" + LETTERS[:22] + "_" + LETTERS,
    "gitlab": "glpat" + "-" + LETTERS[:20],
    "huggingface": "hf" + "_" + LETTERS[:34],
    "wandb": "wandb" + "_v1_" + LETTERS,
    "openai": "sk" + "-proj-" + LETTERS,
    "anthropic": "sk" + "-ant-api03-" + LETTERS,
    "aws": "AK" + "IA" + LETTERS.upper()[:16],
    "google": "AI" + "za" + LETTERS[:35],
    "slack": "xox" + "b-123456789012-" + LETTERS[:24],
    "slack_hook": "https://hooks.slack" + ".com/services/T0/B0/" + LETTERS[:24],
    "discord": "https://discord" + ".com/api/webhooks/12345/" + LETTERS,
    "stripe": "sk" + "_live_" + LETTERS[:24],
    "pypi": "pypi" + "-" + LETTERS + LETTERS,
    "npm": "npm" + "_" + LETTERS[:36],
    "databricks": "da" + "pi" + "0123456789abcdef" * 2,
    "telegram": "123456789" + ":AA" + LETTERS[:33],
    "jwt": "ey" + "J" + LETTERS[:20] + ".ey" + "J" + LETTERS + "." + LETTERS[:30],
}


@pytest.mark.parametrize("service", FORMS)
@pytest.mark.parametrize("around", ["{}", "got {} here", "x: '{}',", "https://h/{}/x", "a={}\n"])
def test_well_known_forms_of_tokens_are_hidden_wherever_they_stand(
    service: str, around: str
) -> None:
    """Under any name, or none."""
    token = FORMS[service]

    assert LETTERS[4:14] not in redact_text(around.format(token)).replace(LETTERS[:4], "")
    assert token not in redact_text(around.format(token))


@pytest.mark.parametrize(
    "text",
    [
        "sk-learn", "task-distribution-over-many-nodes-of-the-cluster", "hf_hub_download",
        "deepspeed/ops/adam", "wandb_v1", "npm_config", "risk_test_set_of_many_words",
        "AKIAH", "disk-usage-of-the-large-checkpoint", "f3a9c1d2e4b5a697",
    ],
)  # fmt: skip
def test_words_that_begin_like_a_token_stay(text: str) -> None:
    """Paths, package names, hashes of commits."""
    assert redact_text(f"a {text} b") == f"a {text} b"


KEY = "-----BEGIN {0}PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END {0}PRIVATE KEY-----"


@pytest.mark.parametrize("kind", ["", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED "])
def test_private_keys_are_hidden(kind: str) -> None:
    """From the first dash to the last; as `repr` writes them, too."""
    key = KEY.format(kind)

    assert redact_text(f"a {key} b") == f"a {REDACTED} b"
    assert redact_text(repr(key)) == f"'{REDACTED}'"
    assert redact_text(key[:-20]) == REDACTED


def test_public_certificates_stay() -> None:
    """They are public."""
    text = KEY.format("").replace("PRIVATE KEY", "CERTIFICATE")

    assert redact_text(text) == text


# --- streams --------------------------------------------------------------------------------------


def shown(*pieces: str) -> str:
    """Return all that a stream shows of what was printed in `pieces`."""
    stream = StreamRedactor()
    return "".join([stream.feed(piece) for piece in pieces]) + stream.rest(at_the_end=True)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("password: s3cr3t\nnext\n", f"password: {REDACTED}\nnext\n"),
        (f"a\n{KEY.format('RSA ')}\nb\n", f"a\n{REDACTED}\nb\n"),
        ("{'HF_TOKEN': 's3cr3t', 'A': 'b'}", f"{{'HF_TOKEN': {REDACTED}, 'A': 'b'}}"),
        (FORMS["github"] + "\n", REDACTED + "\n"),
        ("plain\r 50%\r 100%\n", "plain\r 50%\r 100%\n"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_secret_that_is_printed_in_pieces_is_hidden(text: str, clean: str, size: int) -> None:
    """`print("password:", x)` writes four pieces; a progress bar many more."""
    pieces = [text[i : i + size] for i in range(0, len(text), size)]

    assert shown(*pieces) == clean


def test_whole_lines_are_shown_at_once_and_an_unfinished_one_when_it_rests() -> None:
    """A prompt must not wait for a line that never ends."""
    stream = StreamRedactor()

    assert (stream.feed("one\ntw"), stream.holds) == ("one\n", True)
    assert (stream.feed("o: "), stream.rest(), stream.holds) == ("", "two: ", False)


def test_a_private_key_is_held_back_until_it_ends() -> None:
    """Its lines come one by one, and none of them looks like anything."""
    stream = StreamRedactor()
    before, after = KEY.format("").split("\nIBAAKC")

    assert (stream.feed(before + "\n"), stream.rest()) == ("", "")
    assert stream.feed("IBAAKC" + after + "\n") == f"{REDACTED}\n"


def test_endless_lines_and_keys_are_given_out_in_time() -> None:
    """What is held back is memory."""
    words = "word " * 10_000

    assert shown(words) == words
    stream = StreamRedactor()
    assert len(stream.feed(words)) > 30_000
    assert stream.feed("-----BEGIN PRIVATE KEY-----\n" + "AAAA\n" * 10_000).endswith(REDACTED)


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
        (["-p", "s3cr3t"], ["-p", "[redacted]"]),
        (
            ["-u", "me:s3cr3t", "--user", "me:s3cr3t"],
            ["-u", "me:[redacted]", "--user", "me:[redacted]"],
        ),
        (["--header", "Cookie: a=s3cr3t; b=s3cr3t"], ["--header", "Cookie: a=[redacted]"]),
        (["--webhook-url", "https://s3cr3t"], ["--webhook-url", "[redacted]"]),
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
        "netrc",
        "notes",
        "tag",
        "name",
        "printed",
        "printed_in_pieces",
        "error",
        "private_key",
        "late",
    )
}
TRAINING = """
import json, os, sys
from types import SimpleNamespace
from fasttrack import Options
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
tags = {"model": "m", "dataset": "d", "objective": "o", "experiment_group": "g",
        "password": planted["tag"]}
with make_tracker(
    config=config, tags=tags, notes=f"token={planted['notes']}", name=f"api_key={planted['name']}",
    options=Options(delivery=sys.argv[-1]),
) as tracker:
    print("printed before the rest")
    tracker.log_config(config)
    tracker.log_metrics({"a": 1.0}, 0)
    print(os.environ, file=sys.stderr)
    print({"password": planted["printed"]}, [("cookie", planted["printed"])])
    for piece in ("to", "ken", ": ", planted["printed_in_pieces"], chr(10)):
        print(piece, end="")
    print("-----BEGIN RSA PRIVATE KEY-----")
    print(planted["private_key"])
    print("-----END RSA PRIVATE KEY-----")
    os.environ["LATE_SECRET"] = planted["late"]
    print("it is", planted["late"], "and in the file", planted["netrc"])
    tracker.log_metrics({"a": f"password={planted['error']}"}, 1)
    tracker.log_checkpoint(f"/nowhere?token={planted['error']}", force=True)
    print("printed after the rest")
"""


def files_with(secret: bytes, base: Path) -> list[str]:
    """Return the files under `base` that hold `secret` in their bytes or name, git's own aside."""
    return [
        str(path.relative_to(base))
        for path in base.rglob("*")
        if ".git" not in path.parts
        and (secret.decode() in path.name or (path.is_file() and secret in path.read_bytes()))
    ]


@pytest.mark.parametrize("delivery", ["process", "thread"])
def test_no_planted_secret_is_in_any_file_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delivery: str
) -> None:
    """Journal, metadata, logs, staged artifacts, and all that wandb itself writes offline."""
    remote = f"https://{PLANTED['remote']}:x-oauth-basic@host/x.git"
    for command in ("init -q", f"remote add origin {remote}"):
        subprocess.run(["git", *command.split()], check=True)
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    netrc = Path.home() / ".netrc"
    netrc.write_text(f"machine 127.0.0.1 login user password {PLANTED['netrc']}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("WANDB_API_KEY", PLANTED["wandb_key"])
    monkeypatch.setenv("HF_TOKEN", PLANTED["config_from_environment"])
    monkeypatch.setenv("DATABASE_PASSWORD", PLANTED["environment"])
    monkeypatch.setenv("PLANTED", json.dumps(PLANTED))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("WANDB_DIR", str(work))

    result = run_script(TRAINING, "--api-key", PLANTED["argv"], "--lr", "0.1", delivery, fresh=True)

    leaks = {place: files_with(secret.encode(), work) for place, secret in PLANTED.items()}
    assert {place: files for place, files in leaks.items() if files} == {}
    assert PLANTED["error"] not in result.stderr  # the rest was printed by the program itself
    (directory,) = (work / "wandb" / "fasttrack").iterdir()
    (journal,) = directory.glob("segment-*.jsonl")
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    (metadata,) = (entry["values"] for entry in entries if entry["kind"] == "metadata")
    assert metadata["git"]["remote"] == "https://host/x.git"
    assert metadata["argv"][1:5] == ["--api-key", REDACTED, "--lr", "0.1"]
    assert entries[0]["config"]["hub_token"] == REDACTED
    assert entries[0]["notes"] == f"token={REDACTED}"
    assert files_with(b"s3://bucket/x", work)  # the search does find what is there
    (offline,) = offline_dirs(work)
    for text in ("printed before the rest", "it is [redacted] and", "printed after the rest"):
        assert text in console_of(offline)
    assert offline.stat().st_mode & 0o077 == 0


def console_of(directory: Path) -> str:
    """Return the console text in a W&B run directory's `.wandb` file."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    (file,) = directory.glob("run-*.wandb")
    records = [Record.FromString(payload) for payload in read_payloads(file)]
    kinds = ("output", "output_raw")
    found = [getattr(r, kind) for r in records if (kind := r.WhichOneof("record_type")) in kinds]
    return "".join(output.line for output in found)


def test_all_that_delivery_makes_is_the_users_alone(tmp_path: Path) -> None:
    """W&B's files hold every row, the configuration and the console: 0700, 0600."""
    run_script(
        """
        import os
        os.umask(0o022)
        from support.runs import make_tracker
        with make_tracker() as tracker:
            tracker.log_config({"a": 1})
            tracker.log_metrics({"a": 1.0}, 0)
        """
    )

    (offline,) = offline_dirs(tmp_path)
    (run,) = (tmp_path / "wandb" / "fasttrack").iterdir()
    private = [offline, *offline.rglob("*"), run, *run.glob("*")]
    assert len(private) > 5
    open_to_others = [p for p in private if not p.is_symlink() and p.stat().st_mode & 0o077]
    assert open_to_others == []


def test_a_variable_that_goes_meanwhile_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread takes variables out of the environment while its secrets are looked for."""

    class Vanishing(dict[bytes, bytes]):
        """Lose a key between its listing and its reading."""

        def __iter__(self) -> Any:
            yield from [*super().keys(), b"GONE_TOKEN"]

    monkeypatch.setenv("KEPT_TOKEN", "a-secret-that-stays")
    monkeypatch.setattr(os.environ, "_data", Vanishing(os.environ._data))  # type: ignore[attr-defined]

    assert redact_text("it is a-secret-that-stays") == f"it is {REDACTED}"
