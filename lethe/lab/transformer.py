"""The transformer that learns to regress in context.

As in Garg et al. (NeurIPS 2022, arXiv 2208.01066) and Kotha et al. (2024): every input and every
label is a token, labels padded with zeros to the width of an input (or beside their input, where
the shape is `paired`); a linear read-in, a decoder, a linear read-out at the tokens of the inputs.
The library's table of words, 13 million weights that are never read in the original, is left out.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lethe.lab.presets import Shape
from lethe.lab.problem import Problem


class Regressor(nn.Module):
    """Prompts in, an answer at every number of exemplars out."""

    def __init__(self, shape: Shape, problem: Problem) -> None:
        super().__init__()
        self.paired = shape.paired
        self.read_in = nn.Linear(problem.dimensions + shape.paired, shape.width)
        self.backbone = _backbone(shape, 2 * problem.exemplars + 1)
        self.read_out = nn.Linear(shape.width, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Answers (B, K+1) to queries x (B, K+1, d), each from the pairs before it.

        Args:
            y: (B, K+1) labels; the last is not read.
        """
        rows, places, d = x.shape
        tokens = x.new_zeros(rows, 2 * places - 1, d + self.paired)
        tokens[:, 0::2, :d] = x
        if self.paired:
            tokens[:, 1::2, :d] = x[:, :-1]
        tokens[:, 1::2, d if self.paired else 0] = y[:, :-1]
        hidden = self.backbone(
            inputs_embeds=self.read_in(tokens), use_cache=False
        ).last_hidden_state
        answers: Tensor = self.read_out(hidden[:, 0::2])[..., 0]
        return answers


def make_regressor(shape: Shape, problem: Problem, seed: int) -> Regressor:
    """A regressor with random weights."""
    with torch.random.fork_rng(devices=[]):  # the caller's own draws stay as they were
        torch.manual_seed(seed)
        return Regressor(shape, problem)


def answers_of(
    model: Regressor, x: Tensor, y: Tensor, *, rows: int = 1024, scale: float = 1.0
) -> Tensor:
    """Answers (B, K+1) without gradients, some rows at a time.

    Args:
        scale: γ of the conjugate prompt: labels are multiplied by it and the answer divided.
    """
    with torch.inference_mode():
        parts = [
            model(x[at : at + rows], y[at : at + rows] * scale) / scale
            for at in range(0, len(x), rows)
        ]
    return torch.cat(parts)


def _backbone(shape: Shape, positions: int) -> Any:
    """The library's decoder, without dropout and without its table of words."""
    from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaModel

    if shape.family == "gpt2":
        gpt2 = GPT2Model(
            GPT2Config(
                vocab_size=1,
                n_positions=positions,
                n_embd=shape.width,
                n_layer=shape.layers,
                n_head=shape.heads,
                n_inner=shape.inner,
                activation_function="gelu_pytorch_tanh",  # GPT-2's own, in one kernel
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                use_cache=False,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
        del gpt2.wte
        return gpt2
    llama = LlamaModel(
        LlamaConfig(
            vocab_size=1,
            hidden_size=shape.width,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            max_position_embeddings=positions,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=None,
        )
    )
    del llama.embed_tokens
    return llama
