"""The weight files that Meta publishes for SAM2: where they are and how to know them again."""

from __future__ import annotations

from typing import NamedTuple

_ADDRESS = "https://dl.fbaipublicfiles.com/segment_anything_2"


class OfficialFile(NamedTuple):
    """One published file.

    Attributes:
        variant: ours, for example ``hiera_t``.
        release: of SAM2, ``2.0`` or ``2.1``.
        path: date and name in the address.
        parameters: numbers that training may change.
        size: bytes; ``None``: not known.
        sha256: of the file, in hexadecimal.
    """

    variant: str
    release: str
    path: str
    parameters: int
    size: int | None
    sha256: str

    @property
    def name(self) -> str:
        """File name."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def address(self) -> str:
        """Where Meta has it."""
        return f"{_ADDRESS}/{self.path}"


# Sizes and checksums as several public projects that check their downloads give them.
OFFICIAL_FILES = (
    OfficialFile(
        "hiera_t",
        "2.1",
        "092824/sam2.1_hiera_tiny.pt",
        38_962_498,
        156_008_466,
        "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
    ),
    OfficialFile(
        "hiera_s",
        "2.1",
        "092824/sam2.1_hiera_small.pt",
        46_060_354,
        184_416_285,
        "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
    ),
    OfficialFile(
        "hiera_b+",
        "2.1",
        "092824/sam2.1_hiera_base_plus.pt",
        80_850_178,
        323_606_802,
        "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
    ),
    OfficialFile(
        "hiera_l",
        "2.1",
        "092824/sam2.1_hiera_large.pt",
        224_446_642,
        898_083_611,
        "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
    ),
    OfficialFile(
        "hiera_t",
        "2.0",
        "072824/sam2_hiera_tiny.pt",
        38_945_986,
        155_906_050,
        "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
    ),
    OfficialFile(
        "hiera_s",
        "2.0",
        "072824/sam2_hiera_small.pt",
        46_043_842,
        184_309_650,
        "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
    ),
    OfficialFile(
        "hiera_b+",
        "2.0",
        "072824/sam2_hiera_base_plus.pt",
        80_833_666,
        None,
        "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
    ),
    OfficialFile(
        "hiera_l",
        "2.0",
        "072824/sam2_hiera_large.pt",
        224_430_130,
        897_952_466,
        "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
    ),
)


def official_file(variant: str) -> OfficialFile:
    """Find the file of the newest release that Meta publishes for a variant.

    Args:
        variant: for example ``hiera_t``.

    Returns:
        The file.

    Raises:
        KeyError: for a variant that is not Meta's.
    """
    newest = {file.variant: file for file in OFFICIAL_FILES if file.release == "2.1"}
    return newest[variant]
