"""What is remembered of verified tokens."""

from scow.registry.tokens import KEPT_SIZE, Claims, KeptClaims


def test_what_is_remembered_is_bounded_by_its_size() -> None:
    kept, claims = KeptClaims(), Claims("ann", 0.0, {}, False)
    half = "x" * (KEPT_SIZE // 2 - 1)
    texts = [f"{half}{number}" for number in range(3)]
    for text in texts:
        kept.keep(text, claims)
    assert [kept.find(text) for text in texts] == [None, None, claims]
