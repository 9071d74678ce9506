"""The record as tokens, and the image-EHR cross-attention (IECA) that reads them."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nofinding.functional.features.attention import pool_tokens
from nofinding.nets.unet import Encoder, UNetShape

__all__ = ["CrossAttention", "FeatureTokenizer", "ImageQuery", "OneHotTokenizer", "drop_records"]


class FeatureTokenizer(nn.Module):
    """One token an entry of the record (Gorishniy et al. 2021, section 3.3).

    A number x becomes LayerNorm(w x + b), a category LayerNorm(e[category]), with w, b and e
    of their own for every field. `categories[i]` is the number of categories of field i, 0
    for a number. The LayerNorm is of the published program; the Diff3M paper does not mention it.
    """

    def __init__(self, categories: Sequence[int], width: int) -> None:
        super().__init__()
        self.categories = tuple(categories)
        numbers = sum(not c for c in categories)
        self.weight = nn.Parameter(torch.empty(numbers, width).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(numbers, width).uniform_(-1, 1))
        self.tables = nn.ModuleList([nn.Embedding(c, width) for c in categories if c])
        self.norm = nn.LayerNorm(width)

    def forward(
        self, values: Float[Tensor, "b f"], known: Bool[Tensor, "b f"]
    ) -> tuple[Float[Tensor, "b f d"], Bool[Tensor, "b f"]]:
        """Tokens of every field, and which of them may be attended to."""
        tokens: list[Tensor] = []
        numbers, tables = 0, iter(self.tables)
        for field, categories in enumerate(self.categories):
            if categories:
                tokens.append(next(tables)(values[:, field].long()))
            else:
                value = values[:, field, None]
                tokens.append(value * self.weight[numbers] + self.bias[numbers])
                numbers += 1
        return self.norm(torch.stack(tokens, dim=1)), known

    def by_field(self, weights: Float[Tensor, "b f"]) -> Float[Tensor, "b f"]:
        """Attention weights by field: as they are, one token a field."""
        return weights


class OneHotTokenizer(nn.Module):
    """One token a number and one a *category*, numbers first: LayerNorm(w_i value_i + b_i).

    This is how the published program makes its tokens: sex becomes two, with the values
    (1, 0) or (0, 1). `categories` as in `FeatureTokenizer`.
    """

    def __init__(self, categories: Sequence[int], width: int) -> None:
        super().__init__()
        fields = range(len(categories))
        numbers = [f for f in fields if not categories[f]]
        one_hot = [(f, c) for f in fields for c in range(categories[f])]
        self.source = [(f, -1) for f in numbers] + one_hot  # field and category of each token
        self.fields = len(categories)
        self.weight = nn.Parameter(torch.randn(len(self.source), width))
        self.bias = nn.Parameter(torch.randn(len(self.source), width))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, values: Float[Tensor, "b f"], known: Bool[Tensor, "b f"]
    ) -> tuple[Float[Tensor, "b v d"], Bool[Tensor, "b v"]]:
        """Tokens of every value, and which of them may be attended to."""
        columns = [
            values[:, field] if category < 0 else (values[:, field] == category).to(values)
            for field, category in self.source
        ]
        spread = torch.stack(columns, dim=1)[..., None]  # (b, v, 1)
        owner = [field for field, _ in self.source]
        return self.norm(spread * self.weight + self.bias), known[:, owner]

    def by_field(self, weights: Float[Tensor, "b v"]) -> Float[Tensor, "b f"]:
        """Attention weights by field: those of a category's tokens summed."""
        total = weights.new_zeros(len(weights), self.fields)
        owner = torch.tensor([field for field, _ in self.source], device=weights.device)
        return total.index_add(1, owner, weights)


class ImageQuery(nn.Module):
    """What the film asks of the record: encoder, global max pool, Linear, LayerNorm.

    The encoder sees the clean film and no time step, so this is computed once a film.
    """

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        self.encoder = Encoder(shape, embedded=False)
        self.project = nn.Linear(shape.width * shape.multipliers[-1], shape.embedding)
        self.norm = nn.LayerNorm(shape.embedding)

    def forward(self, x0: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b d"]:
        deepest = self.encoder(x0)[-1]
        out: Tensor = self.norm(self.project(deepest.amax(dim=(2, 3))))
        return out


class CrossAttention(nn.Module):
    """IECA: groups of fields, each with a tokenizer and a softmax of its own; contexts added.

    The paper has one group of all fields; the published program has two, demographics and
    EHR. `groups` lists the columns of `Batch.ehr` in each.
    """

    def __init__(
        self,
        shape: UNetShape,
        groups: Sequence[Sequence[int]],
        categories: Sequence[int],
        tokenizer: type[FeatureTokenizer] | type[OneHotTokenizer],
    ) -> None:
        super().__init__()
        self.groups = [list(group) for group in groups]
        self.query = ImageQuery(shape)
        self.tokenizers = nn.ModuleList(
            [tokenizer([categories[f] for f in group], shape.embedding) for group in self.groups]
        )

    def forward(
        self, x0: Float[Tensor, "b 1 h w"], values: Float[Tensor, "b f"], known: Bool[Tensor, "b f"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b f"]]:
        """The record in context of the film, and the weight of every field."""
        query = self.query(x0)
        context = torch.zeros_like(query)
        by_field = values.new_zeros(values.shape)
        for group, tokenizer in zip(self.groups, self.tokenizers, strict=True):
            assert isinstance(tokenizer, FeatureTokenizer | OneHotTokenizer)
            tokens, may = tokenizer(values[:, group], known[:, group])
            pooled, weights = pool_tokens(query, tokens, may)
            context = context + pooled
            by_field[:, group] = tokenizer.by_field(weights).to(by_field)
        return context, by_field


def drop_records(
    known: Bool[Tensor, "b f"],
    draws: Float[Tensor, "b f+1"],
    whole: float,
    single: float,
) -> Bool[Tensor, "b f"]:
    """Forgets some of the record, so that one model learns to serve any subset of it.

    With probability `whole` the film loses its record altogether, otherwise each entry with
    probability `single`. `draws` are uniform in [0, 1), the first column for the record.
    """
    return known & (draws[:, 1:] >= single) & (draws[:, :1] >= whole)
