import torch
from rtdl_revisiting_models import CategoricalEmbeddings, LinearEmbeddings

from nofinding.nets.ehr import CrossAttention, FeatureTokenizer, OneHotTokenizer, drop_records
from nofinding.nets.unet import UNetShape

SHAPE = UNetShape(image_size=16, width=8, multipliers=(1, 2), res_blocks=1, attention_at=())


def test_tokens_are_those_of_ft_transformer() -> None:
    ours = FeatureTokenizer([0, 3, 0, 2], 16)
    numbers = LinearEmbeddings(2, 16)
    tables = CategoricalEmbeddings([3, 2], 16, bias=False)
    with torch.no_grad():
        ours.weight.copy_(numbers.weight)
        ours.bias.copy_(numbers.bias)
        for mine, theirs in zip(ours.tables, tables.embeddings, strict=True):
            mine.weight.copy_(theirs.weight)
    values = torch.tensor([[0.5, 2.0, -1.0, 1.0], [1.5, 0.0, 3.0, 0.0]])
    tokens, _ = ours(values, torch.ones(2, 4, dtype=torch.bool))
    linear = numbers(values[:, [0, 2]])
    categorical = tables(values[:, [1, 3]].long())
    expected = torch.stack([linear[:, 0], categorical[:, 0], linear[:, 1], categorical[:, 1]], 1)
    torch.testing.assert_close(tokens, ours.norm(expected))


def test_one_hot_tokens_put_numbers_first_and_weights_back_together() -> None:
    tokenizer = OneHotTokenizer([2, 0], 4)
    assert tokenizer.source == [(1, -1), (0, 0), (0, 1)]
    tokens, known = tokenizer(torch.tensor([[1.0, 0.3]]), torch.tensor([[False, True]]))
    expected = torch.tensor([0.3, 0.0, 1.0])[:, None] * tokenizer.weight + tokenizer.bias
    torch.testing.assert_close(tokens[0], tokenizer.norm(expected))
    assert known.tolist() == [[True, False, False]]
    by_field = tokenizer.by_field(torch.tensor([[0.5, 0.2, 0.3]]))
    torch.testing.assert_close(by_field, torch.tensor([[0.5, 0.5]]))


def test_groups_have_a_softmax_each_and_columns_keep_their_place() -> None:
    torch.manual_seed(0)
    net = CrossAttention(SHAPE, [[2, 0], [1]], [0, 0, 0], FeatureTokenizer)
    known = torch.tensor([[True, True, True], [True, False, True]])
    context, weights = net(torch.randn(2, 1, 16, 16), torch.randn(2, 3), known)
    assert context.shape == (2, SHAPE.embedding)
    torch.testing.assert_close(weights[:, [0, 2]].sum(1), torch.ones(2))
    assert weights[:, 1].tolist() == [1.0, 0.0]


def test_records_are_dropped_whole_or_by_entry() -> None:
    known = torch.ones(4, 2, dtype=torch.bool)
    known[3, 0] = False
    draws = torch.tensor([[0.05, 0.9, 0.9], [0.5, 0.05, 0.9], [0.5, 0.9, 0.9], [0.5, 0.9, 0.9]])
    left = drop_records(known, draws, whole=0.1, single=0.1)
    assert left.tolist() == [[False, False], [False, True], [True, True], [False, True]]
