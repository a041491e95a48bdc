"""MultiExoCon (paper 3.4.1): exo videos as the tokens that Wan attends to in place of text."""

from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from exo2ego.model.wan import TRAINABLE_DTYPE
from stores.schema import LATENT_CHANNELS, PATCH


class ExoTokens(nn.Module):
    """The paper's patch embedding of exo latents: a token for every 2x2 cells of every frame.

    Tokens carry no position and no view: the paper names none.
    Choice: it starts as Wan's own embedding of noisy latents, so that exo tokens lie where Wan's
    tokens lie; the paper does not say how it starts.
    """

    def __init__(self, patch_embedding: nn.Conv3d):
        super().__init__()
        patch = (1, PATCH, PATCH)
        self.embed = nn.Conv3d(
            LATENT_CHANNELS,
            patch_embedding.out_channels,
            kernel_size=patch,
            stride=patch,
            device="meta",
            dtype=TRAINABLE_DTYPE,
        ).to_empty(device=patch_embedding.weight.device)
        start = patch_embedding.state_dict()
        self.embed.load_state_dict(
            {"weight": start["weight"][:, :LATENT_CHANNELS], "bias": start["bias"]}
        )

    def forward(
        self, exo_latents: Float[Tensor, "b v c t h w"], keep: Bool[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Tokens in order view, time, row, column; all zero where `keep` is False.

        Choice: zero tokens are guidance's null condition; the paper does not name one.
        """
        videos = rearrange(exo_latents, "b v c t h w -> (b v) c t h w").to(self.embed.weight.dtype)
        tokens = rearrange(
            self.embed(videos), "(b v) d t h w -> b (v t h w) d", b=exo_latents.shape[0]
        )
        if keep is None:
            return tokens
        return tokens * rearrange(keep, "b -> b 1 1")
