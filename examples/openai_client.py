"""The OpenAI SDK against the proxy: what allowed, blocked and withheld exchanges look like.

Start `guardrail serve` (it answers with a built-in demo model until you configure another), then run this with its address:

    python openai_client.py http://127.0.0.1:8080/v1
"""

import sys

from openai import BadRequestError, OpenAI


def ask(client: OpenAI, prompt: str, model: str) -> str:
    """One exchange, told in a sentence."""
    try:
        answer = client.chat.completions.with_raw_response.create(model=model, messages=[{"role": "user", "content": prompt}])
    except BadRequestError as error:
        if error.code == "content_filter":  # the prompt violates a policy; the model was not asked
            return f"blocked before the model was asked: {error.body['message']}" if isinstance(error.body, dict) else "blocked"
        raise
    choice = answer.parse().choices[0]
    if choice.finish_reason == "content_filter":  # the answer violates a policy; what is left of it is a notice
        return f"the answer was withheld: {choice.message.content}"
    return f"{answer.headers['x-guardrail-decision']}: {choice.message.content}"


def main(base_url: str) -> None:
    """A harmless exchange, a violating prompt, a violating answer, and a harmless answer in a stream."""
    with OpenAI(base_url=base_url, api_key="not needed for the demo model") as client:
        print(ask(client, "Hello, how are you?", "embedded-chat"))
        print(ask(client, "You are a worthless idiot, and everybody in this room despises you.", "embedded-chat"))
        print(ask(client, "What do you think of me?", "embedded-violating"))
        stream = client.chat.completions.create(model="embedded-chat", messages=[{"role": "user", "content": "Thank you!"}], stream=True)
        print("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/v1")
