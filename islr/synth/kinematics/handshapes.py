"""The handshapes of ASL-LEX 2.0 by name, with the features each carries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Handshape:
    """One named handshape of ASL-LEX 2.0 with the features it usually carries and what its unselected fingers do."""

    selected: str
    flexion: str
    spread: str
    thumb_position: str
    thumb_contact: str
    unselected_open: str = ""  # letters of the unselected fingers that stay extended


# The names of Handshape.2.0 and NonDominantHandshape.2.0. Unselected fingers are not coded in the table: they
# follow the name.
HANDSHAPES: dict[str, Handshape] = {
    "1": Handshape("i", "FullyOpen", "NA", "Closed", "0"),
    "3": Handshape("im", "FullyOpen", "1", "Open", "0"),
    "4": Handshape("imrp", "FullyOpen", "1", "Closed", "0"),
    "5": Handshape("imrp", "FullyOpen", "1", "Open", "0"),
    "7": Handshape("r", "Curved", "NA", "Open", "1", "imp"),
    "8": Handshape("m", "Flat", "NA", "Open", "1", "irp"),
    "a": Handshape("t", "NA", "NA", "Open", "NA"),
    "baby_o": Handshape("i", "Bent", "NA", "Open", "1"),
    "bent_1": Handshape("i", "Bent", "NA", "Closed", "0"),
    "bent_l": Handshape("i", "Bent", "NA", "Open", "0"),
    "bent_v": Handshape("im", "Bent", "1", "Closed", "0"),
    "c": Handshape("imrp", "Curved", "0", "Open", "0"),
    "closed_b": Handshape("imrp", "FullyOpen", "0", "Closed", "0"),
    "closed_e": Handshape("imrp", "Bent", "1", "Closed", "1"),
    "curved_1": Handshape("i", "Curved", "NA", "Closed", "0"),
    "curved_4": Handshape("imrp", "Curved", "1", "Closed", "0"),
    "curved_5": Handshape("imrp", "Curved", "1", "Open", "0"),
    "curved_b": Handshape("imrp", "Curved", "0", "Closed", "0"),
    "curved_h": Handshape("im", "Curved", "0", "Closed", "0"),
    "curved_l": Handshape("i", "Curved", "NA", "Open", "0"),
    "curved_v": Handshape("im", "Curved", "1", "Closed", "0"),
    "d": Handshape("m", "Curved", "NA", "Open", "1", "i"),
    "e": Handshape("imrp", "Bent", "0", "Closed", "1"),
    "f": Handshape("i", "Curved", "NA", "Open", "1", "mrp"),
    "flat_1": Handshape("i", "Flat", "NA", "Closed", "0"),
    "flat_4": Handshape("imrp", "Flat", "1", "Closed", "0"),
    "flat_b": Handshape("imrp", "Flat", "0", "Open", "0"),
    "flat_h": Handshape("im", "Flat", "0", "Closed", "0"),
    "flat_horns": Handshape("ip", "Flat", "NA", "Closed", "0"),
    "flat_ily": Handshape("ip", "Flat", "NA", "Open", "0"),
    "flat_m": Handshape("imrp", "Flat", "0", "Closed", "1"),
    "flat_n": Handshape("im", "Flat", "0", "Closed", "1"),
    "flat_o": Handshape("imrp", "Flat", "0", "Open", "1"),
    "flat_v": Handshape("im", "Flat", "1", "Closed", "0"),
    "flatspread_5": Handshape("imrp", "Flat", "1", "Open", "0"),
    "g": Handshape("i", "Flat", "NA", "Open", "0"),
    "goody_goody": Handshape("imp", "FullyOpen", "0", "Open", "0"),
    "h": Handshape("im", "FullyOpen", "0", "Closed", "0"),
    "horns": Handshape("ip", "FullyOpen", "NA", "Closed", "0"),
    "i": Handshape("p", "FullyOpen", "NA", "Closed", "0"),
    "ily": Handshape("ip", "FullyOpen", "NA", "Open", "0"),
    "k": Handshape("m", "Stacked", "NA", "Open", "0", "i"),
    "l": Handshape("i", "FullyOpen", "NA", "Open", "0"),
    "n": Handshape("im", "Curved", "0", "Closed", "1"),
    "o": Handshape("imrp", "Curved", "0", "Open", "1"),
    "open_8": Handshape("m", "Flat", "NA", "Open", "0", "irp"),
    "open_b": Handshape("imrp", "FullyOpen", "0", "Open", "0"),
    "open_e": Handshape("imrp", "Bent", "0", "Open", "0"),
    "open_f": Handshape("i", "Curved", "NA", "Open", "0", "mrp"),
    "open_h": Handshape("im", "FullyOpen", "0", "Open", "0"),
    "p": Handshape("im", "Stacked", "NA", "Open", "1"),
    "r": Handshape("im", "Crossed", "0", "Closed", "0"),
    "s": Handshape("imrp", "FullyClosed", "NA", "Closed", "1"),
    "spread_e": Handshape("imrp", "Bent", "1", "Closed", "0"),
    "spread_open_e": Handshape("imrp", "Bent", "1", "Open", "0"),
    "stacked_5": Handshape("imrp", "Stacked", "NA", "Open", "1"),
    "t": Handshape("i", "Curved", "NA", "Open", "1"),
    "v": Handshape("im", "FullyOpen", "1", "Closed", "0"),
    "w": Handshape("p", "Curved", "NA", "Open", "1", "imr"),
    "y": Handshape("p", "FullyOpen", "NA", "Open", "0"),
    # Values of NonDominantHandshape.2.0 only: the unmarked set in capitals and the relaxed hand.
    "A": Handshape("t", "NA", "NA", "Open", "NA"),
    "B": Handshape("imrp", "FullyOpen", "0", "Open", "0"),
    "C": Handshape("imrp", "Curved", "0", "Open", "0"),
    "O": Handshape("imrp", "Curved", "0", "Open", "1"),
    "S": Handshape("imrp", "FullyClosed", "NA", "Closed", "1"),
    "Lax": Handshape("imrp", "Curved", "NA", "Open", "0"),
}
