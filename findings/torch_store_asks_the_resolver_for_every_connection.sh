#!/usr/bin/env bash
# torch 2.13.0: every connection of a TCPStore asks the system's resolver for the name of the other
# side's address, on the client and on the server, though the log that the name is for is off, and
# though the store was given an address. The caller waits for it: where the resolver takes a second
# for an address that has no name, `TCPStore(...)`, `store.clone()` and so `init_process_group` take
# a second longer, and each rank's connection costs the server one such question.
#
# A library that is loaded before glibc's counts the calls of getnameinfo(3) that ask for a name. It
# needs a C compiler.
#
# Expected output:
#   a server with its own client: 2 names are asked for; 10 clients more: 20
#   where each name takes the server 1 s a client waits for more than 0.9 s
#   as expected
#
# Exits with 0 while torch behaves so, with 1 once it does not.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6

cat >"$folder/names.c" <<'C'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef int getnameinfo_t(const struct sockaddr *, socklen_t, char *, socklen_t, char *, socklen_t, int);

int getnameinfo(const struct sockaddr *address, socklen_t length, char *host, socklen_t host_length,
                char *service, socklen_t service_length, int flags) {
  if (!(flags & NI_NUMERICHOST)) {
    FILE *file = fopen(getenv("NAMES"), "a");
    fputs("asked\n", file);
    fclose(file);
    sleep(atoi(getenv("NAME_TAKES_S")));
  }
  getnameinfo_t *real = (getnameinfo_t *)dlsym(RTLD_NEXT, "getnameinfo");
  return real(address, length, host, host_length, service, service_length, flags);
}
C
cc -shared -fPIC -O1 -o "$folder/names.so" "$folder/names.c" -ldl

cat >"$folder/count.py" <<'PY'
import os

from torch.distributed import TCPStore


def asked():
    with open(os.environ["NAMES"]) as file:
        return len(file.readlines())


server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
before = asked()
clients = [TCPStore("127.0.0.1", server.port, wait_for_workers=False) for _ in range(10)]
for client in clients:
    client.set("key", "value")
print(before, asked() - before)
PY

cat >"$folder/serve.py" <<'PY'
import sys

from torch.distributed import TCPStore

server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(server.port, flush=True)
sys.stdin.read()
PY

cat >"$folder/try.py" <<'PY'
import os
import pathlib
import subprocess
import sys
import time

from torch.distributed import TCPStore

preload = {**os.environ, "LD_PRELOAD": os.path.abspath("names.so"), "NAMES": "names"}
pathlib.Path("names").touch()
counted = subprocess.run(
    [sys.executable, "count.py"],
    env={**preload, "NAME_TAKES_S": "0"},
    stdout=subprocess.PIPE,
    text=True,
    check=True,
    timeout=90,
).stdout.split()

server = subprocess.Popen(
    [sys.executable, "serve.py"],
    env={**preload, "NAME_TAKES_S": "1"},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
)
with server:
    port = int(server.stdout.readline())
    begin_s = time.monotonic()
    TCPStore("127.0.0.1", port, wait_for_workers=False).set("key", "value")
    waited_s = time.monotonic() - begin_s
    server.stdin.close()

if counted != ["2", "20"] or waited_s < 0.9:
    sys.exit(f"torch behaves differently now: {counted}, {waited_s:.2f} s")
print("a server with its own client: 2 names are asked for; 10 clients more: 20")
print("where each name takes the server 1 s a client waits for more than 0.9 s")
print("as expected")
PY

cd "$folder"
venv/bin/python try.py
