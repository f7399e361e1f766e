"""How a hand is turned at a place: so that the part that touches comes first, and so that the handshape can be seen.

Fingers bent at the knuckle point along the line of sight when the palm faces the camera or the body, and a viewer sees
a fist. Signers turn the hand a little then, and so does this: the knuckles tip towards the viewer, by an angle that
follows from the flexion alone. At a place on the body the hand is turned further, as little as it takes, until no other
part of it is deeper than the part that touches. Both are the same with and without contact, and the same for everybody
with the same proportions.
"""

from __future__ import annotations

import numpy as np

from islr.data.synth.arm import ELBOW_POLE, hand_frame
from islr.data.synth.body import Body, Place, reference_point, solve_arm, unit
from islr.data.synth.hand import HANDSHAPES
from islr.data.synth.lexicon import Sign
from islr.data.synth.solid import hand_flesh

# Degrees by which knuckles tip towards the viewer, who sees the palm or the back of the hand. Flexions that are not
# listed show as they are.
_TIP_PALM_SEEN = {"Flat": 54.0}
_TIP_BACK_SEEN = {"Flat": 52.0, "Curved": 34.0, "Bent": 38.0, "FullyClosed": 34.0, "NA": 30.0, "Stacked": 20.0}
_ROLL_TO_THUMB = 30.0  # degrees: an open thumb shows beside flat fingers from its own side
_TIPS = np.radians(np.arange(-70.0, 71.0, 7.0))  # tried about the hand's x, from the place's own orientation
_ROLLS = np.radians(np.arange(-48.0, 49.0, 12.0))  # tried about its y: palm to the side
_WRIST = np.radians(60.0)  # more than this between hand and forearm is uncomfortable
_ALLOWED = 0.004  # metres by which another part may be deeper than the one that touches
# What a choice costs: a step of so many radians from the orientation that shows the handshape, of so many metres that
# another part is too deep, of so many radians of uncomfortable wrist.
_COST_OF_TIP, _COST_OF_ROLL, _COST_OF_DEPTH, _COST_OF_WRIST = 0.7, 0.5, 0.008, 0.2


def shown_turn(sign: Sign, frame: np.ndarray) -> tuple[float, float]:
    """Radians about the x and the y of a hand frame [3, 3] by which a sign's handshape is turned to be seen.

    Where other fingers stay open it is they that show the handshape, and nothing has to turn.
    """
    if HANDSHAPES[sign.handshape].unselected_open:
        return 0.0, 0.0
    seen = 1.0 if frame[2, 2] > 0 else -1.0  # the palm, or the back of the hand
    tip = (_TIP_PALM_SEEN if seen > 0 else _TIP_BACK_SEEN).get(sign.flexion, 0.0)
    roll = _ROLL_TO_THUMB if sign.flexion == "Flat" and sign.thumb_position == "Open" else 0.0
    return float(np.radians(seen * tip)), float(np.radians(-seen * roll))


def _turns(tips: np.ndarray, rolls: np.ndarray) -> np.ndarray:
    """Rotations [N, 3, 3] about y by `rolls`, then about x by `tips`; positive tips bring y towards z."""
    (st, ct), (sr, cr) = ((np.sin(a), np.cos(a)) for a in (tips, rolls))
    zero, one = np.zeros_like(tips), np.ones_like(tips)
    tip = np.stack([one, zero, zero, zero, ct, -st, zero, st, ct], axis=-1).reshape(-1, 3, 3)
    roll = np.stack([cr, zero, sr, zero, one, zero, -sr, zero, cr], axis=-1).reshape(-1, 3, 3)
    return roll @ tip


def held(body: Body, place: Place, joints: np.ndarray, sign: Sign, in_space: bool) -> np.ndarray:
    """Hand frame [3, 3] of a sign's hand with joints [21, 3], metres of this body, at a place or (in_space) near it."""
    frame = hand_frame(place.finger, place.palm)
    tip, roll = shown_turn(sign, frame)
    if in_space:
        return frame @ _turns(np.array([tip]), np.array([roll]))[0]
    tips, rolls = (grid.ravel() for grid in np.meshgrid(_TIPS, _ROLLS, indexing="ij"))
    frames = frame @ _turns(tips, rolls)  # [N, 3, 3]
    reference = reference_point(joints, sign.selected_fingers, sign.flexion, in_space)
    inward = frames.transpose(0, 2, 1) @ -place.normal  # [N, 3] into the body, in the hand's frame
    depth = ((joints - reference) @ inward.T).T + hand_flesh(body)  # [N, 21]
    deeper = np.maximum(depth.max(axis=1) - float(hand_flesh(body)[8]) - _ALLOWED, 0.0)
    elbow, wrist = solve_arm(body, place.point - frames @ reference, ELBOW_POLE)
    bend = np.arccos(np.clip(np.sum(frames[:, :, 1] * unit(wrist - elbow), axis=1), -1.0, 1.0))
    cost = (
        ((tips - tip) / _COST_OF_TIP) ** 2
        + ((rolls - roll) / _COST_OF_ROLL) ** 2
        + (deeper / _COST_OF_DEPTH) ** 2
        + (np.maximum(bend - _WRIST, 0.0) / _COST_OF_WRIST) ** 2
    )
    return frames[int(np.argmin(cost))]
