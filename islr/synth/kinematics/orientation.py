"""How a hand is turned at a place: so that the part that touches comes first, and so that the handshape can be seen.

Fingers bent at the knuckle point along the line of sight when the palm faces the camera or the body, and a viewer sees
a fist. Signers turn the hand a little then, and so does this: the knuckles tip towards the viewer, by an angle that
follows from the flexion alone. At a place on the body the hand is turned further, as little as it takes, until no other
part of it is deeper than the part that touches. Both are the same with and without contact, and the same for everybody
with the same proportions.
"""

from __future__ import annotations

import numpy as np

from islr.synth.kinematics.arm import ELBOW_POLE, hand_frame, rotate
from islr.synth.kinematics.body import Body, reference_point, solve_arm, unit
from islr.synth.kinematics.hand import FINGERTIPS
from islr.synth.kinematics.handshapes import HANDSHAPES
from islr.synth.kinematics.places import Place
from islr.synth.kinematics.solid import depth_inside, hand_flesh
from islr.synth.lexicon import Sign

# Degrees by which knuckles tip towards the viewer, who sees the palm or the back of the hand. Flexions that are not
# listed show as they are.
_TIP_PALM_SEEN = {"Flat": 54.0}
_TIP_BACK_SEEN = {"Flat": 52.0, "Curved": 34.0, "Bent": 38.0, "FullyClosed": 34.0, "NA": 30.0, "Stacked": 20.0}
_ROLL_TO_THUMB = 30.0  # degrees: an open thumb shows beside flat fingers from its own side
# Tried from the place's own orientation: about the hand's x, about its y (palm to the side), about its z.
_TIPS, _ROLLS, _SPINS = (np.radians(np.arange(-most, most + 1, step)) for most, step in ((72, 8), (48, 12), (60, 30)))
_WRIST = np.radians(60.0)  # more than this between hand and forearm is uncomfortable
_ALLOWED = 0.004  # metres that a part may be inside the body
_AHEAD = 0.06  # metres that a wrist is before the shoulders
# What a choice costs: 1 for so many radians from the orientation that shows the handshape, for so many metres inside
# the body, for so many radians of uncomfortable wrist, for so many metres of a wrist too far behind.
_COST_OF_TIP, _COST_OF_ROLL, _COST_OF_SPIN, _COST_OF_DEPTH, _COST_OF_WRIST = 0.7, 0.5, 0.7, 0.006, 0.2
_COST_OF_BEHIND = 0.02


def shown_turn(sign: Sign, frame: np.ndarray) -> tuple[float, float]:
    """Return the radians about the x and the y of a hand frame [3, 3] by which a sign's handshape is turned to be seen.

    Where other fingers stay open it is they that show the handshape, and nothing has to turn.
    """
    if HANDSHAPES[sign.handshape].unselected_open:
        return 0.0, 0.0
    seen = 1.0 if frame[2, 2] > 0 else -1.0  # the palm, or the back of the hand
    tip = (_TIP_PALM_SEEN if seen > 0 else _TIP_BACK_SEEN).get(sign.flexion, 0.0)
    roll = _ROLL_TO_THUMB if sign.flexion == "Flat" and sign.thumb_position == "Open" else 0.0
    return float(np.radians(seen * tip)), float(np.radians(-seen * roll))


def _turns(tips: np.ndarray, rolls: np.ndarray, spins: np.ndarray) -> np.ndarray:
    """Return rotations [N, 3, 3] about x by `tips`, y by `rolls` and z by `spins`; positive tips bring y towards z."""
    x, y, z = np.eye(3)
    count = (len(tips), 1)
    return rotate(np.tile(z, count), spins) @ rotate(np.tile(y, count), rolls) @ rotate(np.tile(x, count), tips)


def held(body: Body, place: Place, joints: np.ndarray, sign: Sign, in_space: bool) -> np.ndarray:
    """Return the frame [3, 3] of a sign's hand with joints [21, 3] in metres, at a place or (in_space) near it."""
    frame = hand_frame(place.finger, place.palm)
    tip, roll = shown_turn(sign, frame)
    if in_space:
        return frame @ _turns(np.array([tip]), np.array([roll]), np.zeros(1))[0]
    tips, rolls, spins = (grid.ravel() for grid in np.meshgrid(_TIPS, _ROLLS, _SPINS, indexing="ij"))
    frames = frame @ _turns(tips, rolls, spins)  # [N, 3, 3]
    reference = reference_point(joints, sign.selected_fingers, sign.flexion, in_space)
    around = (joints - reference) @ frames.transpose(0, 2, 1)  # [N, 21, 3] from the place
    flesh = hand_flesh(body)
    if place.on_body:
        depth = depth_inside(body, place.point + around, flesh)
    else:
        depth = flesh - around @ place.normal - float(flesh[FINGERTIPS[0]])
    deeper = np.maximum(depth.max(axis=1) - _ALLOWED, 0.0)
    elbow, wrist = solve_arm(body, place.point - frames @ reference, ELBOW_POLE)
    bend = np.arccos(np.clip(np.sum(frames[:, :, 1] * unit(wrist - elbow), axis=1), -1.0, 1.0))
    cost = (
        ((tips - tip) / _COST_OF_TIP) ** 2
        + ((rolls - roll) / _COST_OF_ROLL) ** 2
        + (spins / _COST_OF_SPIN) ** 2
        + (deeper / _COST_OF_DEPTH) ** 2
        + (np.maximum(bend - _WRIST, 0.0) / _COST_OF_WRIST) ** 2
        + (np.maximum(_AHEAD - wrist[:, 2], 0.0) / _COST_OF_BEHIND) ** 2
    )
    return frames[int(np.argmin(cost))]
