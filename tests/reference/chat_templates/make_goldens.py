#!/usr/bin/env python3
"""Renders chat templates with jinja2, configured as transformers does, and writes goldens.json.

    pip install jinja2==3.1.6 && make_goldens.py

An entry is {"name", "template", "messages", "options": {…}, "expected"}, or "error" with a word in place of "expected".
The templates are written for these tests in the manner of the published families: ChatML, Llama 2 and 3, Mistral, Zephyr, Gemma, Qwen with tools.
"""
import json
import pathlib

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(
    x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = lambda f: "unused"

TALK = [{"role": "system", "content": "You are  helpful. "}, {"role": "user", "content": " Hi, ünï 'q' \"x\"\n"},
        {"role": "assistant", "content": "Hello 👋"}, {"role": "user", "content": "Bye?"}]
SHORT = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds <a> & \"b\"", "parameters": {
    "type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number", "enum": [1, 2.5, None, True]}}, "required": ["a"]}}}]
CALLS = SHORT + [{"role": "assistant", "content": None, "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {
    "name": "add", "arguments": {"a": 1, "b": 2.5}}}]}, {"role": "tool", "name": "add", "content": "3.5"}, {"role": "assistant", "content": "<think>\nsum\n</think>\n\nIt is 3.5"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": "image"}, {"type": "text", "text": "there "}]}]

CHATML = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe kind<|im_end|>\\n' }}"
          "{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}
{% set loop_messages = messages %}{% set system_message = false %}{% endif %}
{% for message in loop_messages %}
  {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
  {% endif %}
  {% if loop.index0 == 0 and system_message != false %}
    {% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}
  {% else %}
    {% set content = message['content'] %}
  {% endif %}
  {% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
  {% elif message['role'] == 'assistant' %}{% generation %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endgeneration %}
  {% endif %}
{% endfor %}"""
LLAMA3 = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}{{- tool_call.arguments | tojson }}{{- "}" }}
        {%- for arg_name, arg_val in tool_call.arguments | items %}
            {{- arg_name + '="' ~ arg_val ~ '"' }}
            {%- if not loop.last %}{{- ", " }}{%- endif %}
        {%- endfor %}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.tool_calls is defined) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}{{- raise_exception("roles must alternate") }}{%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}{%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}{{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {%- for call in message.tool_calls %}{%- set out = call.function|tojson %}{{- out[:-1] }}{{- ', "id": "' + call.id + '"}' }}{%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}
"""
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""
GEMMA = ("{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- if messages[0]['content'] is string -%}"
         "{%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}{%- else -%}{%- set first_user_prefix = messages[0]['content'][0]['text'] -%}{%- endif -%}"
         "{%- set loop_messages = messages[1:] -%}{%- else -%}{%- set first_user_prefix = '' -%}{%- set loop_messages = messages -%}{%- endif -%}"
         "{%- for message in loop_messages -%}{%- if (message['role'] == 'assistant') -%}{%- set role = 'model' -%}{%- else -%}{%- set role = message['role'] -%}{%- endif -%}"
         "{{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else '') }}"
         "{%- if message['content'] is string -%}{{ message['content'] | trim }}{%- elif message['content'] is iterable -%}"
         "{%- for item in message['content'] -%}{%- if item['type'] == 'image' -%}{{ '<image>' }}{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}"
         "{%- else -%}{{ raise_exception('Invalid content type') }}{%- endif -%}{{ '<end_of_turn>\n' }}{%- endfor -%}"
         "{%- if add_generation_prompt -%}{{'<start_of_turn>model\n'}}{%- endif -%}")
QWEN3 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}{{- '<|im_start|>' + message.role + '\\n' + content }}{%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- '<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

FAMILIES = {"chatml": CHATML, "llama2": LLAMA2, "llama3": LLAMA3, "mistral": MISTRAL, "zephyr": ZEPHYR, "gemma": GEMMA, "qwen3": QWEN3}
SNIPPETS = [
    "  {% if true %}\n  a\n  {% endif %}\n b {%- if true -%}  c  {%- endif %}  \n d{% if true +%}\n e {%+ if true %}f{% endif %}\n{% endif %}\n\n",
    "{# comment #}\n  {# another -#}  x {{- ' y ' -}}  z\n", "{% raw %}{{ not }} {% this %}{% endraw %}|{%- raw -%} a {%- endraw -%} b",
    "{{ 1 + 2 * 3 ** 2 // 2 - 7 % 3 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 1e3 }} {{ 2 ** -1 }} {{ 0.1 + 0.2 }} {{ 1e16 }} {{ 1e-5 }} {{ 10 ** 15 * 1.0 }}",
    "{{ 'a' ~ 1 ~ none ~ true ~ 1.5 ~ [1, 'x', \"it's\"] ~ {'k': (1,), 'n': none} }}", "{{ 'ab' * 3 }} {{ [1] + [2] }} {{ 'é€😀'|length }} {{ 'é€😀'[1] }} {{ 'é€😀'[::-1] }} {{ 'abcdef'[-3:-1] }} {{ 'abcdef'[::2] }}",
    "{{ 1 < 2 < 3 }} {{ 1 == 1.0 }} {{ '1' == 1 }} {{ 'a' in 'abc' }} {{ 'k' not in {'k': 1} }} {{ not 1 in [2] }} {{ true and 'x' }} {{ '' or 'y' }} {{ 1 if false }}",
    "{{ x is defined }} {{ x is undefined }} {{ none is none }} {{ 1 is number }} {{ true is boolean }} {{ 'a' is string }} {{ {} is mapping }} {{ [] is iterable }} {{ 1 is sameas 1 }} {{ 3 is odd }} {{ 4 is divisibleby 2 }} {{ 'a' is in ['a'] }} {{ 1 is eq 1 }}",
    "{{ x|default('d') }} {{ ''|default('d', true) }} {{ [3,1,2]|sort|join(',') }} {{ ['b','A']|sort }} {{ [1,2,2]|unique|list }} {{ {'b':1,'a':2}|dictsort }} {{ 'a,b'.split(',') }} {{ ' a  b '.split() }} {{ 'a-b-c'.rsplit('-', 1) }}",
    "{{ 'hello world-it'|title }} {{ 'hELLO'|capitalize }} {{ 'hello'.title() }} {{ \"it's ok\".title() }} {{ 'ß'.upper() }} {{ 'İ'.lower()|length }} {{ 'xxhixx'.strip('x') }} {{ ' a '|trim }} {{ 'aXbX'.replace('X', 'y', 1) }} {{ 'abc'.find('c') }}",
    "{% set ns = namespace(n=0, s='') %}{% for c in 'abc' %}{% set ns.n = ns.n + loop.index %}{% set ns.s = c ~ ns.s %}{% endfor %}{{ ns.n }}{{ ns.s }}",
    "{% for i in range(10) if i is even %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 6 %}{% break %}{% endif %}{{ i }}{{ loop.last }},{% else %}none{% endfor %}{% for i in [] %}{% else %}empty{% endfor %}",
    "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}",
    "{% macro m(a, b='z', c=none) %}[{{ a }}|{{ b }}|{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m('x', 'y') | upper }}",
    "{% set t %}\n  block {{ 1 }}\n{% endset %}{{ t|trim }}|{% set u | upper %}abc{% endset %}{{ u }}{% filter upper %}f{% endfilter %}{% set a, b = (1, 2) %}{{ a }}{{ b }}",
    "{% for k, v in {'x': 1, 'y': [1, 2]}.items() %}{{ k }}={{ v }}{{ ';' if not loop.last else '.' }}{{ loop.index }}{{ loop.revindex }}{{ loop.length }}{{ loop.previtem is defined }}{{ loop.cycle('o', 'e') }}{% endfor %}",
    "{{ messages|map(attribute='role')|join(', ') }} {{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|list|length }} {{ messages|rejectattr('role', 'in', ['user'])|list|length }} {{ ['a','B']|map('upper')|list }} {{ [0,1,2]|select|list }} {{ [1,2,3]|reject('odd')|list }}",
    "{{ {'b': [1, 2.5, none, true, 'é\\n\"</'], 'a': {}}|tojson }} {{ {'b': [1, {}], 'a': []}|tojson(indent=2) }} {{ {'b': 1, 'a': 'é😀'}|tojson(ensure_ascii=true, sort_keys=true) }}",
    "{{ '3'|int + 1 }} {{ 'x'|int }} {{ '2.7'|int }} {{ 2.7|int }} {{ '1.5'|float }} {{ 3|string + 'a' }} {{ -3|abs }} {{ 2.567|round(2) }} {{ [1,2]|sum }} {{ [1,5,2]|max }} {{ 'abc'|reverse }} {{ 'abc'|first }} {{ [1,2]|last }} {{ 'abc'|list }}",
    "{{ '\\u00e9\\x41\\t|\\'|\\\\' }} {{ \"a\" \"b\" }} {{ 'line\nbreak' }} {{ 1_000 }} {{ (1, 2) }} {{ () }} {{ messages[0].role }} {{ messages[99] }}|{{ messages[0].nothing }}|",
    "{{ 'a\nb\n\nc'|indent(2) }}{{ 'a\nb'|indent(2, true) }}{{ '<&>'|escape }}{{ 'abc'.startswith(('x', 'a')) }}{{ 'a\nb'.splitlines() }}{{ 'k' in messages[0] }}{{ messages[0].get('zz', 'no') }}{{ messages[-1]['content'][:2] }}",
    "{{ dict(a=1)['a'] }}{{ range(3)|list }}{{ range(5, 1, -2)|list }}{{ [[1,2],[3]]|length }}{{ '%' }}{{ 'a' if x is defined and x else 'b' }}{{ 'in' if 'role' in messages[0] and messages[0]['role'] is not none else 'out' }}",
    # Constructs of newer templates: recursive macros over a schema, items with a filter, what precedes and follows, thinking taken apart.
    """{%- macro kind(spec, names, depth=0) -%}
    {%- if spec is not mapping -%}any
    {%- elif spec.type == 'object' and spec.properties is defined -%}
        {{- '{' }}{%- for key, value in spec.properties.items() if key not in ['hidden'] -%}
        {{- key + ('' if key in (spec.required or []) else '?') + ': ' + kind(value, names, depth + 1) + (', ' if not loop.last else '') }}
        {%- endfor -%}{{- '}' }}
    {%- elif spec.enum -%}{{ '"' + spec.enum | map('string') | join('" | "') + '"' }}
    {%- else -%}{{ names[spec.type] | default('unknown') }}
    {%- endif -%}{%- endmacro -%}
{%- for tool in tools or [{'function': {'name': 'f', 'parameters': {'type': 'object', 'properties': {'a': {'type': 'number'}, 'o': {'type': 'object', 'properties': {'x': {'enum': [1, 'y']}}}, 'hidden': {}}, 'required': ['a']}}}] %}
{%- set f = tool.function if tool.function is defined else tool %}
// {{ f.description | default('no words', true) }}
type {{ f.name }} = (_: {{ kind(f.parameters, {'number': 'number'}) }}) => any;
{%- endfor %}""",
    "{% set ns = namespace(is_first=false, system='', seen=[]) %}{% for m in messages if m['role'] == 'system' %}{% set ns.system = ns.system ~ m['content'] %}{% endfor %}"
    "{% for m in messages %}{% set ns.seen = ns.seen + [m.role] %}{% endfor %}{{ ns.system.strip() }}|{{ ns.seen }}|{{ ns.seen.index('user') }}|{{ ns.seen.count('user') }}",
    "{%- if messages and messages[-1].role == 'user' and (messages[-1].content is string or messages[-1].content is sequence) -%}yes{%- endif -%}{{- ' ' -}}{%- if not (tools is defined and tools) %}none{% endif %}{{ strftime_now('%d %B %Y') is string }}",
]
ERRORS = [("{{ raise_exception('no way') }}", "no way"), ("{{ x.y }}", "undefined"), ("{{ x + 1 }}", "undefined"), ("{{ 'a' + 1 }}", None), ("{% if %}", None),
          ("{% for x in y %}", None), ("{{ 'a", None), ("{{ 1 / 0 }}", None), ("{{ f(1) }}", "undefined"), ("{{ 1 | nosuchfilter }}", "nosuchfilter"), ("{{ 1 is nosuchtest }}", "nosuchtest"),
          ("{{ [1][0", None), ("{% endif %}", None), ("{{ 'a' < 1 }}", None), ("{% set x = %}", None), ("{{ }}", None)]

out = []


def add(name, template, messages, **options):
    prompt = options.pop("add_generation_prompt", False)
    variables = dict(bos_token="<s>", eos_token="</s>", tools=None, documents=None, messages=messages, add_generation_prompt=prompt)
    variables.update(options)
    entry = {"name": name, "template": template, "messages": messages, "options": {"add_generation_prompt": prompt, **options}}
    try:
        entry["expected"] = env.from_string(template).render(**variables)
    except (jinja2.exceptions.TemplateError, TypeError, ZeroDivisionError) as e:
        entry["error"] = str(e)[:200]
    out.append(entry)


for family, template in FAMILIES.items():
    add(family, template, TALK)
    add(family + " without a system message", template, TALK[1:])
    add(family + " asking for an answer", template, SHORT, add_generation_prompt=True)
    add(family + " with tools", template, CALLS, tools=TOOLS)
    add(family + " of parts", template, PARTS)
add("qwen3 not thinking", QWEN3, SHORT, add_generation_prompt=True, enable_thinking=False)
for i, snippet in enumerate(SNIPPETS):
    add(f"snippet {i}", snippet, TALK)
for i, (snippet, word) in enumerate(ERRORS):
    add(f"error {i}", snippet, TALK)
    assert "error" in out[-1], snippet
    out[-1]["error"] = word or ""
path = pathlib.Path(__file__).resolve().parent / "goldens.json"
path.write_text(json.dumps(out, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
