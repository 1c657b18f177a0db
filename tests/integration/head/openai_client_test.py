#!/usr/bin/env python3
"""The official openai client against a head with a fake model: usage: openai_client_test.py FAKE_HEAD"""
import subprocess
import sys
import time
import unittest

import openai

TEXT = "The capital of France is Paris. \U0001F600 It lies on the Seine."
SAY = [{"role": "user", "content": "Say it"}]


class OpenaiClient(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.head = subprocess.Popen([FAKE_HEAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        cls.client = openai.OpenAI(base_url=cls.head.stdout.readline().strip() + "/v1", api_key="none", max_retries=3)
        cls.model = cls.client.models.list().data[0].id

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.head.stdin.close()
        cls.head.wait(timeout=10)
        cls.head.stdout.close()

    def chat(self, **more):
        return self.client.chat.completions.create(model=self.model, messages=SAY, **more)

    def test_models(self):
        self.assertEqual(self.model, "fake/model")

    def test_chat(self):
        answer = self.chat()
        self.assertEqual(answer.choices[0].message.content, TEXT)
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)

    def test_chat_stream_with_usage(self):
        text, usage, reasons = "", None, []
        for chunk in self.chat(stream=True, stream_options={"include_usage": True}):
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
                reasons.append(chunk.choices[0].finish_reason)
            else:
                usage = chunk.usage
        self.assertEqual(text, TEXT)
        self.assertEqual([r for r in reasons if r], ["stop"])
        self.assertGreater(usage.completion_tokens, 10)

    def test_length_and_stop(self):
        self.assertEqual(self.chat(max_tokens=3).choices[0].finish_reason, "length")
        self.assertEqual(self.chat(max_completion_tokens=3).usage.completion_tokens, 3)
        for stream in (False, True):
            answer = self.chat(stop=["is Par", "zzz"], stream=stream)
            text = ("".join(c.choices[0].delta.content or "" for c in answer) if stream
                    else answer.choices[0].message.content)
            self.assertEqual(text, "The capital of France ")

    def test_choices(self):
        answer = self.chat(n=3, max_tokens=5)
        self.assertEqual([c.index for c in answer.choices], [0, 1, 2])
        self.assertEqual(answer.usage.completion_tokens, 15)

    def test_logprobs(self):
        content = self.chat(logprobs=True, top_logprobs=2, max_tokens=4).choices[0].logprobs.content
        self.assertEqual(len(content), 4)
        self.assertEqual(len(content[0].top_logprobs), 2)
        self.assertEqual(content[0].logprob, -0.5)

    def test_completion(self):
        answer = self.client.completions.create(model=self.model, prompt="x<|im_end|>", max_tokens=400)
        self.assertEqual(answer.choices[0].text, TEXT)
        answer = self.client.completions.create(model=self.model, prompt=[[5, 2], [6, 7, 2]], max_tokens=4, logprobs=1,
                                                extra_body={"return_token_ids": True})
        self.assertEqual([c.index for c in answer.choices], [0, 1])
        self.assertEqual(answer.choices[1].prompt_token_ids, [6, 7, 2])
        self.assertEqual(len(answer.choices[0].token_ids), 4)
        self.assertEqual(len(answer.choices[0].logprobs.tokens), 4)
        stream = self.client.completions.create(model=self.model, prompt="x<|im_end|>", max_tokens=400, stream=True)
        self.assertEqual("".join(c.choices[0].text for c in stream), TEXT)

    def test_errors(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(temperature=3)
        self.assertEqual(caught.exception.body["param"], "temperature")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(extra_body={"colour": 1})
        self.assertEqual(caught.exception.body["param"], "colour")
        with self.assertRaises(openai.NotFoundError):
            self.client.chat.completions.create(model="other", messages=SAY)
        with self.assertRaises(openai.BadRequestError):
            self.chat(max_tokens=5000)

    def test_closed_stream_frees_the_sequence(self):
        for _ in range(40):  # more than may live at once
            stream = self.chat(stream=True, max_tokens=900, extra_body={"ignore_eos": True})
            next(iter(stream))
            stream.close()
        time.sleep(0.1)
        self.assertEqual(self.chat().choices[0].message.content, TEXT)


if __name__ == "__main__":
    FAKE_HEAD = sys.argv.pop(1)
    unittest.main()
