"""From a video and a tracker's boxes to a camera's folder of crops: `san crops`.

A detector and a tracker stay outside; `detections` reads what they write, `frames` decodes (OpenCV, extra `video`),
`quality` rates boxes, `crops` chooses and writes.
"""
