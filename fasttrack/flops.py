"""How many floating-point operations a model takes."""

from __future__ import annotations

from fasttrack.validation import require_integer


def flops_per_token(
    parameters: int, *, layers: int = 0, heads: int = 0, head_dim: int = 0, sequence_length: int = 0
) -> int:
    """Return what training a decoder-only Transformer takes for a token, forward and backward.

    That is 6N + 12LHQT as PaLM counts it (arXiv 2204.02311, appendix B): two operations for each
    parameter in the forward and four in the backward pass (Kaplan et al., arXiv 2001.08361, section
    2.1), and the attention over the whole sequence, causal or not. Pass it as
    `Options(flops_per_token=...)`.

    Args:
        parameters: N, those that a token is multiplied by: without embeddings that are only looked
            up (one that is the output layer, too, counts), and of a mixture of experts only those
            of the experts that a token goes to.
        layers: L; 0, as all below, leaves the attention out.
        heads: H, of the queries.
        head_dim: Q, the size of a head.
        sequence_length: T, in tokens.

    Raises:
        ConfigurationError: a number is none, or negative.
    """
    require_integer("parameters", parameters, least=1)
    require_integer("layers", layers, least=0)
    require_integer("heads", heads, least=0)
    require_integer("head_dim", head_dim, least=0)
    require_integer("sequence_length", sequence_length, least=0)
    return 6 * parameters + 12 * layers * heads * head_dim * sequence_length
