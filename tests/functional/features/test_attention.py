import torch

from nofinding.functional.features.attention import pool_tokens


def test_is_softmax_attention_with_one_query() -> None:
    chance = torch.Generator().manual_seed(0)
    query = torch.randn(2, 8, generator=chance)
    tokens = torch.randn(2, 5, 8, generator=chance)
    pooled, weights = pool_tokens(query, tokens, torch.ones(2, 5, dtype=torch.bool))
    theirs = torch.nn.functional.scaled_dot_product_attention(query[:, None], tokens, tokens)
    torch.testing.assert_close(pooled, theirs[:, 0])
    torch.testing.assert_close(weights.sum(1), torch.ones(2))


def test_an_unknown_entry_has_no_weight_and_no_say() -> None:
    query, tokens = torch.ones(1, 4), torch.randn(1, 3, 4)
    known = torch.tensor([[True, False, True]])
    pooled, weights = pool_tokens(query, tokens, known)
    assert weights[0, 1] == 0
    assert torch.isclose(weights.sum(), torch.tensor(1.0))
    tokens[0, 1] = 1e4
    assert torch.equal(pool_tokens(query, tokens, known)[0], pooled)


def test_nothing_known_is_a_zero_vector() -> None:
    pooled, weights = pool_tokens(
        torch.ones(1, 4), torch.ones(1, 3, 4), torch.zeros(1, 3, dtype=torch.bool)
    )
    assert torch.equal(pooled, torch.zeros(1, 4))
    assert torch.equal(weights, torch.zeros(1, 3))
