"""Talks to a server with Anthropic's own client, and prints what came back as JSON. The caller judges it.

Arguments: the server's address and its model. With `tools` behind them the model is asked to call one.
"""

import json
import sys

from anthropic import Anthropic, APIStatusError

QUESTION = [{"role": "user", "content": "Tell me about boats in two sentences."}]

WARMTH = [{"role": "user", "content": "How warm is it in Bonn? Use the tool."}]

# The client has no parameter for it.
GREEDY = {"temperature": 0}

TOOLS = [{
    "name": "get_temperature",
    "description": "The temperature in a city right now",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "The name of the city"}},
        "required": ["city"],
    },
}]


def whole(message):
    said = message.model_dump(include={"type", "role", "model", "stop_reason", "stop_sequence"})
    return {
        **said,
        "id": message.id,
        "blocks": [block.type for block in message.content],
        "text": "".join(block.text for block in message.content if block.type == "text"),
        "input_tokens": message.usage.input_tokens,
        "output_tokens": message.usage.output_tokens,
    }


def call(message):
    calls = [block for block in message.content if block.type == "tool_use"]
    return calls and {"name": calls[0].name, "input": calls[0].input, "id": calls[0].id}


def refused(ask):
    try:
        ask()
    except APIStatusError as error:
        return {"class": type(error).__name__, "status": error.status_code, "body": error.body}
    return None


def chat(client, model):
    def ask(messages=QUESTION, model=model, **options):
        options = {"max_tokens": 24, "extra_body": GREEDY, **options}
        return client.messages.create(model=model, messages=messages, **options)

    greedy = whole(ask())
    stop = greedy["text"].split()[3]
    with client.messages.stream(
        model=model, messages=QUESTION, max_tokens=24, extra_body=GREEDY
    ) as stream:
        pieces = list(stream.text_stream)
        streamed = whole(stream.get_final_message())
    return {
        "whole": greedy,
        "streamed": streamed,
        "pieces": pieces,
        "events": [event.type for event in ask(stream=True)],
        "stop": stop,
        "stopped": whole(ask(stop_sequences=[stop])),
        "short": whole(ask(max_tokens=5)),
        "with_system": whole(ask(system="Answer in French.")),
        "begun": whole(ask([*QUESTION, {"role": "assistant", "content": "Boats are"}])),
        "with_result": whole(ask([
            *WARMTH,
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "toolu_1", "name": "get_temperature", "input": {"city": "Bonn"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "17"},
            ]},
        ], tools=TOOLS)),
        "count": client.messages.count_tokens(model=model, messages=QUESTION).input_tokens,
        "unknown_model": refused(lambda: ask(model="gpt-17")),
        "too_long": refused(lambda: ask([{"role": "user", "content": "boat " * 2000}])),
        "too_hot": refused(lambda: ask(extra_body={"temperature": 9})),
        "forced": refused(lambda: ask(tools=TOOLS, tool_choice={"type": "any"})),
    }


def tools(client, model):
    options = {"model": model, "tools": TOOLS, "max_tokens": 100, "extra_body": GREEDY}
    answer = client.messages.create(messages=WARMTH, **options)
    with client.messages.stream(messages=WARMTH, **options) as stream:
        streamed = stream.get_final_message()
    called = call(answer)
    result = {"type": "tool_result", "tool_use_id": called and called["id"], "content": "17"}
    messages = [
        *WARMTH,
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [result]},
    ]
    return {
        "whole": whole(answer),
        "call": called,
        "streamed": whole(streamed),
        "streamed_call": call(streamed),
        "after": whole(client.messages.create(messages=messages, **options)),
    }


def main():
    base_url, model, *what = sys.argv[1:]
    client = Anthropic(base_url=base_url, api_key="any", max_retries=0, timeout=120)
    talk = tools if what == ["tools"] else chat
    print(json.dumps(talk(client, model)))


main()
