"""Talks to a server with OpenAI's own client, and prints what came back as JSON. The caller judges it."""

import asyncio
import json
import sys

from openai import APIStatusError, AsyncOpenAI, OpenAI

QUESTION = [{"role": "user", "content": "Tell me about boats in two sentences."}]


def whole(completion):
    choice = completion.choices[0]
    return {
        "text": choice.message.content,
        "role": choice.message.role,
        "finish_reason": choice.finish_reason,
        "prompt_tokens": completion.usage.prompt_tokens,
        "completion_tokens": completion.usage.completion_tokens,
        "total_tokens": completion.usage.total_tokens,
    }


def streamed(stream):
    pieces, finish_reason, usage = [], None, None
    for chunk in stream:
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            finish_reason = choice.finish_reason or finish_reason
        if chunk.usage is not None:
            usage = chunk.usage.model_dump()
    return {
        "text": "".join(pieces),
        "pieces": sum(piece != "" for piece in pieces),
        "finish_reason": finish_reason,
        "usage": usage,
    }


def likely(choice):
    entries = choice.logprobs.content
    return {
        "index": choice.index,
        "text": choice.message.content,
        "tokens": "".join(entry.token for entry in entries),
        "bytes": sum(len(entry.bytes) for entry in entries),
        "logprobs": [entry.logprob for entry in entries],
        "tops": [[top.logprob for top in entry.top_logprobs] for entry in entries],
    }


def likely_streamed(stream):
    choices = [choice for chunk in stream for choice in chunk.choices if choice.logprobs]
    return [entry.logprob for choice in choices for entry in choice.logprobs.content]


def refused(ask):
    try:
        ask()
    except APIStatusError as error:
        return {"class": type(error).__name__, "status": error.status_code, "body": error.body}
    return None


async def at_the_same_time(base_url, model, n):
    async with AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0) as client:
        asked = [
            client.chat.completions.create(
                model=model, messages=QUESTION, temperature=0, max_tokens=24
            )
            for _ in range(n)
        ]
        return [completion.choices[0].message.content for completion in await asyncio.gather(*asked)]


def main():
    base_url = sys.argv[1]
    client = OpenAI(base_url=base_url, api_key="any", max_retries=0, timeout=120)
    models = [model.id for model in client.models.list()]
    model = models[0]

    def ask(messages=QUESTION, model=model, **options):
        return client.chat.completions.create(
            model=model, messages=messages, **{"temperature": 0, "max_tokens": 24, **options}
        )

    greedy = whole(ask())
    stop = greedy["text"].split()[3]
    print(json.dumps({
        "models": models,
        "retrieved": client.models.retrieve(model).id,
        "whole": greedy,
        "streamed": streamed(ask(stream=True, stream_options={"include_usage": True})),
        "streamed_without_usage": streamed(ask(stream=True)),
        "stop": stop,
        "stopped": whole(ask(stop=[stop])),
        "stopped_in_stream": streamed(ask(stop=stop, stream=True)),
        "short": whole(ask(max_tokens=5)),
        "short_by_newer_name": whole(ask(max_tokens=None, max_completion_tokens=5)),
        "seed_7": whole(ask(temperature=1.5, seed=7)),
        "seed_7_again": whole(ask(temperature=1.5, seed=7)),
        "seed_8": whole(ask(temperature=1.5, seed=8)),
        "likely": [
            likely(choice) for choice in ask(n=2, logprobs=True, top_logprobs=2).choices
        ],
        "likely_streamed": likely_streamed(ask(stream=True, logprobs=True)),
        "biased": whole(ask(logit_bias={"0": -100, "9": 2})),
        "with_system": whole(ask([{"role": "system", "content": "Answer in French."}, *QUESTION])),
        "at_the_same_time": asyncio.run(at_the_same_time(base_url, model, 4)),
        "unknown_model": refused(lambda: ask(model="gpt-17")),
        "too_long": refused(lambda: ask([{"role": "user", "content": "boat " * 2000}])),
        "too_hot": refused(lambda: ask(temperature=9)),
        "no_messages": refused(lambda: ask([])),
    }))


main()
