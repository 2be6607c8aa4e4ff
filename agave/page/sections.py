"""The sections of the page, in the order of the paper: of each what the paper says, in our words, and what is shown here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agave.page import exhibits, findings
from agave.page.parts import Exhibit, Table
from agave.results import Results


def _nothing(source: Results) -> list[str]:
    return []


def _no_tables(source: Results) -> list[Table]:
    return []


@dataclass(frozen=True)
class Section:
    """A section.

    Attributes:
        id: its anchor.
        title: its heading.
        about: what it is about, beside the heading.
        places: the first places of claims (`where` in claims.yaml) that belong to it.
        paper: what the paper says, as (place, sentence).
        figures: returns its figures.
        tables: returns its tables, which stand below the figures; above them if `tables_first`.
        findings: returns sentences with our numbers.
        files: the tables in tables/ that its tables show, as (name without ending, title).
    """

    id: str
    title: str
    about: str
    places: Sequence[str]
    paper: Sequence[tuple[str, str]]
    figures: Callable[[Results], list[Exhibit]]
    tables: Callable[[Results], list[Table]] = _no_tables
    findings: Callable[[Results], list[str]] = _nothing
    tables_first: bool = False
    files: Sequence[tuple[str, str]] = ()


SECTIONS = (
    Section(
        "figure-1",
        "Figure 1",
        "Samples of the three models",
        ("Figure 1",),
        [
            ("Figure 1", "Samples of a VAE are coherent but blurry, those of PixelCNN++ sharp without a global plan."),
            (
                "Section 1",
                "The hybrid draws an image in two steps, f(z) from the latent variables, then the pixels given f(z), and has both virtues.",
            ),
        ],
        exhibits.figure_1,
        findings=findings.samples_shown,
    ),
    Section(
        "figure-2",
        "Figure 2",
        "The model",
        ("Figure 2", "section 3.1", "section 3.2", "section 3.3"),
        [
            ("Section 3.1", "A VAE must explain every pixel by its latent variables, so its mean images are blurry and its draws noisy."),
            ("Section 3.2", "An autoregressive decoder that is strong enough has no reason to use z."),
            (
                "Section 3.2",
                "An auxiliary image y, reconstructed from f(z) without looking at other pixels, gives z its task; λ weights the KL.",
            ),
        ],
        exhibits.figure_2,
    ),
    Section(
        "table-1",
        "Table 1",
        "Bits per dimension of twelve systems",
        ("Table 1",),
        [
            ("Table 1", "AGAVE with λ = 12 has 2.92 bits/dim on the CIFAR-10 test images, with 150 importance samples."),
            ("Section 4.2", "That is as good as PixelCNN++, 2.92, and better than all other models of the table."),
        ],
        exhibits.systems,
        findings.systems_table,
        findings.compared,
        tables_first=True,
        files=[("table1", "Table 1")],
    ),
    Section(
        "figure-3",
        "Figure 3",
        "Reconstructions and samples as λ grows",
        ("Figure 3", "Figure 3a", "Figure 3b"),
        [
            ("Section 4.2", "With a larger λ reconstructions lose detail and keep the shape, while samples lose their unrealistic detail."),
            ("Section 4.2", "The PixelCNN follows f(z). At λ = 2 it hardly changes it; at larger λ it adds detail."),
        ],
        exhibits.figure_3,
        findings=findings.images_shown,
    ),
    Section(
        "figure-4",
        "Figure 4",
        "Bits per dimension as λ grows",
        ("Figure 4",),
        [
            (
                "Section 4.2",
                "A larger λ pushes the KL towards zero. Both reconstruction terms grow, and the VAE decoder as a whole gets worse.",
            ),
            ("Section 4.2", "The PixelCNN decoder gains about 0.2 bits/dim from λ = 1 to 2, and a little more with every step after that."),
        ],
        exhibits.figure_4,
        findings.terms,
        findings.by_kl_weight,
    ),
    Section(
        "figure-5",
        "Figure 5",
        "Fewer colour levels in the auxiliary image",
        ("Figure 5", "Figure 5a", "Figure 5b"),
        [
            (
                "Section 4.2",
                "With fewer colour levels reconstructions carry less detail. The effect is small, since f(z) stays continuous.",
            ),
            ("Section 4.2", "The total gets better by a little with every coarser step: shades are cheaper in the PixelCNN than in z."),
        ],
        exhibits.figure_5,
        findings.levels,
        findings.by_levels,
    ),
    Section(
        "figure-6",
        "Figure 6",
        "Samples with other auxiliary images",
        ("Figure 6",),
        [
            (
                "Section 4.2",
                "Auxiliary images with fewer colours or pixels give samples of like quality: the PixelCNN makes up for what f(z) lacks.",
            ),
        ],
        exhibits.figure_6,
    ),
    Section(
        "text",
        "Section 4.2",
        "Statements without a figure",
        ("section 4.2",),
        [
            ("Section 4.2", "The numbers of Table 1 use importance sampling with 150 samples, which tightens the bound."),
            ("Section 4.2", "Auxiliary images of 16×16 and 8×8 pixels give 2.94 and 2.93 bits/dim, close to the 2.92 at full size."),
        ],
        exhibits.growth,
        findings.importance,
    ),
    Section(
        "codec",
        "Compression",
        "Bits per dimension are bits in a file",
        ("bits per dimension",),
        [
            (
                "Section 4.2",
                "Bits per dimension are the average number of bits per colour value in a lossless code made from the model.",
            )
        ],
        exhibits.codec,
        findings.compressed,
        files=[("codec", "Compressed files")],
    ),
    Section(
        "bits",
        "Maps of bits",
        "Where on the image the bits go",
        (),
        [("Section 3.1", "Given f(z), the autoregressive decoder is left with what it is good at: local detail.")],
        exhibits.bits,
    ),
    Section(
        "beyond",
        "Beyond the paper",
        "Completions and training curves",
        (),
        [("Nowhere", "The paper shows neither. They help to judge the models and the trainings.")],
        exhibits.beyond,
    ),
)
