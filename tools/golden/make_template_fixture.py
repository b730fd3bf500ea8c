#!/usr/bin/env python3
"""Renders tests/fixtures/templates/*.jinja over many conversations, and many small templates, as transformers would.

The environment is the one that transformers builds for chat templates (immutable sandbox, trim_blocks, lstrip_blocks, loop controls,
its own tojson, raise_exception, strftime_now, generation blocks), with the clock stopped. README.md has the file formats.
Run: make_template_fixture.py [--out DIR]
"""
import argparse
import json
from datetime import datetime
from pathlib import Path

import jinja2
import transformers.utils.chat_template_utils as chat

import template_snippets

DATA = Path(__file__).resolve().parents[2] / "tests/fixtures/templates"
NOW = datetime(2025, 3, 9, 7, 5, 2)            # a Sunday; day and hour of one digit show the padding
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

U = lambda text: {"role": "user", "content": text}
A = lambda text, **more: {"role": "assistant", "content": text} | more
S = lambda text: {"role": "system", "content": text}
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather at a place, \"now\" or later; e.g. Köln & Düsseldorf <DE>.",
    "parameters": {"type": "object", "properties": {
        "place": {"type": "string", "description": "The place"}, "days": {"type": "integer", "default": 1},
        "unit": {"type": "string", "enum": ["C", "F"], "default": "C"}, "ids": {"type": "array", "items": {"type": "number"}},
        "where": {"type": "object", "properties": {"lat": {"type": "number"}, "lon": {"type": ["number", "null"]}}, "required": ["lat"]}},
        "required": ["place"]}}}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "The time", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call12345", "type": "function", "function": {"name": "get_weather", "arguments": {"place": "Zürich", "days": 2, "deep": {"a": [1.5, None, True]}}}}
CALL2 = {"id": "call67890", "type": "function", "function": {"name": "clock", "arguments": {}}}
TRICKY = "Quote \" and ' and \\ back\\slash, tab\t, {{ braces }} {% tags %} {# hash #}, <b>&amp;</b>, naïve Ω 世界 👩‍💻, end\n\n"

INPUTS = {
    "one_user": dict(messages=[U("Hello!")], add_generation_prompt=True),
    "one_user_no_prompt": dict(messages=[U("Hello!")], add_generation_prompt=False),
    "no_option": dict(messages=[U("Hi")]),
    "system_user": dict(messages=[S("Be brief."), U("What is 2+2?")], add_generation_prompt=True),
    "turns": dict(messages=[U("one"), A("two"), U("three"), A("four"), U("five")], add_generation_prompt=True),
    "system_turns": dict(messages=[S("You are a pirate."), U("one"), A("Arr."), U("three")], add_generation_prompt=True),
    "ends_with_assistant": dict(messages=[S("s"), U("one"), A("two")], add_generation_prompt=False),
    "assistant_first": dict(messages=[A("I start."), U("And I answer.")], add_generation_prompt=True),
    "two_users": dict(messages=[U("first"), U("second")], add_generation_prompt=True),
    "two_systems": dict(messages=[S("a"), S("b"), U("c")], add_generation_prompt=True),
    "late_system": dict(messages=[U("c"), S("late"), U("d")], add_generation_prompt=True),
    "only_system": dict(messages=[S("alone")], add_generation_prompt=True),
    "unknown_role": dict(messages=[U("x"), {"role": "narrator", "content": "y"}], add_generation_prompt=True),
    "tricky_text": dict(messages=[S("  " + TRICKY), U(TRICKY), A(" spaced \n"), U("\n\n lead and trail \t\n")], add_generation_prompt=True),
    "empty_content": dict(messages=[S(""), U(""), A(""), U("")], add_generation_prompt=True),
    "no_messages": dict(messages=[], add_generation_prompt=True),
    "missing_content": dict(messages=[U("x"), {"role": "assistant"}, U("y")], add_generation_prompt=True),
    "null_content": dict(messages=[U("x"), A(None), U("y")], add_generation_prompt=True),
    "number_content": dict(messages=[U(42)], add_generation_prompt=True),
    "parts": dict(messages=[U([{"type": "text", "text": " part one "}, {"type": "image"}, {"type": "text", "text": "part two"}])], add_generation_prompt=True),
    "thoughts": dict(messages=[U("x"), A("<think>\nhm\n</think>\n\nSo: y"), U("and?"), A("<think>aha</think>z")], add_generation_prompt=False),
    "thinking_off": dict(messages=[U("x"), A("<think>\nhm\n</think>\n\nSo: y"), U("and?")], add_generation_prompt=True, enable_thinking=False),
    "reasoning_field": dict(messages=[U("x"), A("y", reasoning_content="\nbecause\n")], add_generation_prompt=False),
    "tools": dict(messages=[S("Help."), U("Weather?")], tools=[WEATHER, CLOCK], add_generation_prompt=True),
    "tools_no_system": dict(messages=[U("Weather?")], tools=[WEATHER], add_generation_prompt=True),
    "tools_empty": dict(messages=[U("Weather?")], tools=[], add_generation_prompt=True),
    "tool_call": dict(messages=[U("Weather?"), A(None, tool_calls=[CALL]), {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": "{\"t\": 21.5}"}],
                      tools=[WEATHER], add_generation_prompt=True),
    "tool_call_text": dict(messages=[U("Weather?"), A("Let me look.", tool_calls=[CALL]), {"role": "tool", "tool_call_id": "call12345", "content": "rain"},
                                     A("It rains."), U("Thanks")], tools=[WEATHER, CLOCK], add_generation_prompt=True),
    "two_calls": dict(messages=[U("Both?"), A("", tool_calls=[CALL, CALL2]), {"role": "tool", "tool_call_id": "call12345", "content": "rain"},
                                {"role": "tool", "tool_call_id": "call67890", "content": "7:05"}], tools=[WEATHER, CLOCK], add_generation_prompt=True),
    "call_arguments_text": dict(messages=[U("W?"), A("", tool_calls=[{"id": "x", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}])],
                                add_generation_prompt=True),
    "tool_content_object": dict(messages=[U("W?"), A("", tool_calls=[CALL]), {"role": "tool", "tool_call_id": "call12345", "content": {"t": 21.5, "ok": True}}],
                                tools=[WEATHER], add_generation_prompt=True),
    "documents": dict(messages=[U("What do they say?")], documents=[{"title": "A", "text": "alpha"}, {"title": "Ü", "text": "line\nline"}], add_generation_prompt=True),
    "options": dict(messages=[U("x")], add_generation_prompt=True, reasoning_effort="high", date_string="1 Jan 2030", controls={"length": "short"}, tools_in_user_message=False),
    "tools_and_thoughts": dict(messages=[S("sys"), U("q"), A("", reasoning_content="think hard", tool_calls=[CALL]),
                                         {"role": "tool", "tool_call_id": "call12345", "name": "get_weather", "content": "sunny"},
                                         A("done", reasoning_content="more", thinking="t2"), U("again")], tools=[WEATHER, CLOCK], add_generation_prompt=True),
    "thinking_on": dict(messages=[U("q"), A("a", thinking="deep"), U("r")], thinking=True, enable_thinking=True, add_generation_prompt=True),
    "all_parts": dict(messages=[S([{"type": "text", "text": "s1"}]), U([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
                                A([{"type": "text", "text": "c"}]), U([{"type": "text", "text": "d"}])], add_generation_prompt=True),
    "tool_parts": dict(messages=[U("q"), A(None, tool_calls=[{"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1, \"b\": \"x<y\"}"}}]),
                                 {"role": "tool", "tool_call_id": "functions.f:0", "name": "f", "content": [{"type": "text", "text": "out1"}, {"type": "text", "text": "out2"}]},
                                 U("n")], tools=[WEATHER], add_generation_prompt=True),
    "rounds": dict(messages=[S("a"), U("b"), A("c", tool_calls=[CALL, CALL2]), {"role": "tool", "tool_call_id": "call12345", "content": "r1"},
                             {"role": "tool", "tool_call_id": "call67890", "content": {"x": [1, 2.5, None, "é"]}}, A("fin"), U("u2"), A("x2", reasoning_content=""), U("u3")],
                   tools=[WEATHER, CLOCK], add_generation_prompt=False, reasoning_effort="low", builtin_tools=["browser", "python"], model_identity="I am X."),
    "developer": dict(messages=[{"role": "developer", "content": "rules"}, U("q")], tools=[WEATHER], add_generation_prompt=True, builtin_tools=["python"]),
    "prefix": dict(messages=[U("q"), A("partial", prefix=True)], thinking=True, continue_final_message=True, add_generation_prompt=False),
    "long": dict(messages=[(U if i % 2 == 0 else A)(f"turn {i}") for i in range(41)], add_generation_prompt=True),
}


class StoppedClock(datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def render(template, data):
    """-> {"expect": text} or {"error": kind, "message": text}; kind: load, raise (the template's own), run (anything else)."""
    try:
        compiled = chat._compile_jinja_template(template)
    except jinja2.TemplateSyntaxError as e:
        return {"error": "load", "message": e.message}
    except SyntaxError as e:                                 # what Jinja leaves to Python's compiler to find
        return {"error": "load", "message": e.msg}
    try:
        return {"expect": compiled.render(**data)}
    except jinja2.UndefinedError as e:
        return {"error": "run", "message": e.message}
    except jinja2.exceptions.TemplateError as e:
        return {"error": "raise" if type(e) is jinja2.exceptions.TemplateError else "run", "message": str(e)}
    except RecursionError:
        return {"error": "run", "message": "recursion"}
    except Exception as e:
        return {"error": "run", "message": f"{type(e).__name__}: {e}"}


def context(data):
    """What transformers passes: tools and documents are there even when the caller gave none, special tokens always."""
    return {"tools": None, "documents": None, "add_generation_prompt": False} | SPECIAL | data


def write_lines(path, rows):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DATA)
    args = parser.parse_args()
    chat.datetime = StoppedClock
    write_lines(args.out / "inputs.jsonl", [{"name": n, "context": context(d)} for n, d in INPUTS.items()])
    cases = [{"template": path.name, "input": name} | render(path.read_text(), context(data))
             for path in sorted(DATA.glob("*.jinja")) for name, data in INPUTS.items()]
    write_lines(args.out / "cases.jsonl", cases)
    rows = []
    for need, group in (("core", template_snippets.CORE), ("extra", template_snippets.EXTRA)):
        for template in group:
            result = render(template, template_snippets.DATA)
            if "0x7" in result.get("expect", ""):           # an address: nothing to compare with
                result = {"error": "run", "message": "prints an object"}
            rows.append({"need": need, "template": template} | result)
    write_lines(args.out / "snippets.jsonl", rows)
    (args.out / "snippets.data.json").write_text(json.dumps(template_snippets.DATA, ensure_ascii=False, indent=1) + "\n")
    refused = []
    for name, template, stage in template_snippets.REFUSED:
        row = {"name": name, "stage": stage, "template" if isinstance(template, str) else "parts": template}
        if stage != "limit":
            result = render(template, context(INPUTS["one_user"]))
            assert "error" in result, (name, result)
            assert stage == ("load" if result["error"] == "load" else "run"), (name, stage, result)
            row["message"] = result["message"]
        refused.append(row)
    write_lines(args.out / "refused.jsonl", refused)
    for label, some in (("cases", cases), ("snippets", rows)):
        kinds = [r.get("error", "text") for r in some]
        print(label, {k: kinds.count(k) for k in sorted(set(kinds))})
    print("refused", len(refused))


if __name__ == "__main__":
    main()
