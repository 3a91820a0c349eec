"""Probe of untrusted chat templates: a child process renders them once, within limits of time and memory.

Templates run in the sandbox of Transformers (Jinja's `ImmutableSandboxedEnvironment`), which cannot read files or run
code, but can loop without end and fill the memory. The child process imports Jinja only, so a probe takes about as
long as the start of a Python interpreter.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from derta.errors import ModelError

if TYPE_CHECKING:
    from jinja2 import Environment

CPU_SECONDS = 5
"""Limit of CPU time, which a busy machine does not use up."""
WALL_SECONDS = 120
MEMORY_BYTES = 2**31
LONGEST_OUTPUT = 1_000_000
"""Maximum number of characters for a short conversation."""

_OUT_OF_MEMORY, _TOO_LONG = 3, 4
_BOOTSTRAP = (
    "import json, sys; job = json.load(sys.stdin); sys.path[:] = job['path']; "
    "from derta.template_probe import render_conversations; sys.exit(render_conversations(job))"
)
_ROLES = (
    (("user", "assistant"), False),
    (("user",), True),
    (("system", "user", "assistant", "user"), True),
    (("user", "assistant") * 3, False),
)
"""Roles of the messages of each conversation, and whether it gets a generation prompt."""
_TEXT_BYTES = (1, 8, 64, 1024)


def check_template(template: str, *, variables: Mapping[str, Any], where: str) -> None:
    """Render a chat template in a child process; the same template and variables are probed once per process.

    Errors of the template are ignored: they are reported when it is used.

    Args:
        template: The Jinja source.
        variables: The template's variables, in addition to the conversation.
        where: The name of the tokenizer, for the error.

    Raises:
        ModelError: the template does not end, or needs too much memory, or writes too long a text.
    """
    fault = _probe(template, json.dumps(variables, default=str, sort_keys=True))
    if fault is not None:
        raise ModelError(f"the chat template of {where} {fault}; do not use this model, or set another `template`")


@lru_cache(maxsize=256)
def _probe(template: str, variables: str) -> str | None:
    """Return the fault of a template, or None."""
    path = [entry for entry in sys.path if Path(entry).is_absolute()]
    job = {"template": template, "variables": json.loads(variables), "path": path, "cpu_seconds": CPU_SECONDS}
    command = [sys.executable, "-I", "-S", "-c", _BOOTSTRAP]
    endless = f"does not end within {CPU_SECONDS} s"
    try:
        done = subprocess.run(  # noqa: S603 - our own code; the template is data
            command,
            input=json.dumps(job).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return endless
    faults = {
        0: None,
        _OUT_OF_MEMORY: f"needs more than {MEMORY_BYTES >> 30} GiB of memory",
        _TOO_LONG: f"writes more than {LONGEST_OUTPUT} characters for a short conversation",
        -signal.SIGXCPU: endless,
        -signal.SIGKILL: endless,
    }
    if done.returncode not in faults:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        return f"cannot be tried in a child process ({lines[-1]:.200})"
    return faults[done.returncode]


def render_conversations(job: Mapping[str, Any]) -> int:
    """Render a template for a few conversations, within the limits; the entry point of the child process."""
    import resource

    from jinja2 import TemplateError

    for limit, soft, hard in (
        (resource.RLIMIT_CPU, job["cpu_seconds"], job["cpu_seconds"] + 1),
        (resource.RLIMIT_AS, MEMORY_BYTES, MEMORY_BYTES),
    ):
        highest = resource.getrlimit(limit)[1]
        known = highest != resource.RLIM_INFINITY
        resource.setrlimit(limit, (min(soft, highest) if known else soft, min(hard, highest) if known else hard))

    # random texts of several lengths, so that a template cannot tell a probe from its use by a fixed text
    texts = cycle(map(token_hex, _TEXT_BYTES))
    for roles, add_generation_prompt in _ROLES:
        messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
        variables = {"messages": messages, "add_generation_prompt": add_generation_prompt, "tools": None}
        try:
            text = (
                environment()
                .from_string(job["template"])
                .render(**({"documents": None} | variables | job["variables"]))
            )
        except MemoryError:
            return _OUT_OF_MEMORY
        except (TemplateError, *TEMPLATE_ERRORS):
            continue
        if len(text) > LONGEST_OUTPUT:
            return _TOO_LONG
    return 0


TEMPLATE_ERRORS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""Errors that a template can raise in addition to Jinja's `TemplateError`."""


def environment() -> Environment:
    """Return a Jinja environment with what Transformers offers to chat templates, without importing Transformers.

    Source: transformers 5.23, `utils.chat_template_utils._compile_jinja_template`; a test compares both.
    """
    import jinja2
    import jinja2.ext
    from jinja2.nodes import CallBlock
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class AssistantTracker(jinja2.ext.Extension):
        tags = {"generation"}  # noqa: RUF012 - Jinja's declaration

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return CallBlock(self.call_method("_generation_support"), [], [], body).set_lineno(line)

        def _generation_support(self, caller: Any) -> str:
            return caller()

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    def strftime_now(form: str) -> str:
        return datetime.now().strftime(form)

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[AssistantTracker, jinja2.ext.loopcontrols]
    )
    sandbox.filters["tojson"] = to_json
    functions: dict[str, Any] = {"raise_exception": raise_exception, "strftime_now": strftime_now}
    sandbox.globals.update(functions)
    return sandbox
