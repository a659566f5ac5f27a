"""Options of multiple choice as the published files hold them, put right."""

from collections.abc import Sequence


def options(texts: Sequence[str], right: int) -> tuple[tuple[str, ...], int]:
    """The options without space at their ends, each once, and where the right one is then.

    Some published questions list an option twice. Told apart by nothing, the two count as one.
    """
    stripped = [text.strip() for text in texts]
    kept = tuple(dict.fromkeys(stripped))
    return kept, kept.index(stripped[right])
