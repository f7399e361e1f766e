"""Which frames of a pose file belong to a clip: by number where both counts agree, else by time."""

from islr.data.manifest import Clip
from islr.data.poses.pose import Pose


def pose_of_clip(pose: Pose, clip: Clip) -> Pose:
    """Return the poses of a clip's frames.

    A pose with as many frames as the clip, or as the clip's file, has one for each of them, whatever rate it gives:
    pose files round rates, and the frames of many videos are not evenly spaced. Any other pose is cut by its times.
    """
    if clip.start is None and clip.end is None:
        return pose
    if len(pose) == clip.file_frames and clip.first_frame is not None and pose.start == 0:
        return pose.part(clip.first_frame, clip.first_frame + (clip.frames or 0))
    # A pose that begins at 0 may also have been made of a file that was cut to the clip.
    cut = pose.start == 0 and clip.file_frames is not None
    begins_there = cut or abs(pose.start - (clip.start or 0.0)) < 1 / pose.fps
    return pose if len(pose) == clip.frames and begins_there else pose.within(clip.start, clip.end)
