"""Colours said by code points (CICP): `nclx` in AVIF and HEIC, `cICP` in PNG and in newer ICC profiles.

Source:
    ITU-T H.273, tables 2 and 3; PNG 3, section 11.3.2.6; ISO/IEC 23000-22 (MIAF): what is not said is sRGB.
"""

from tlora.pictures.colour import Refused
from tlora.pictures.icc import D65, SRGB_CURVE, SRGB_PRIMARIES, Point, matrix_profile

_ILLUMINANT_C: Point = (0.310, 0.316)
_SMPTE_C = ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070))
_DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
_BT709, _UNSAID = 1, 2
_PRIMARIES = {
    _BT709: (SRGB_PRIMARIES, D65),
    _UNSAID: (SRGB_PRIMARIES, D65),
    4: (((0.670, 0.330), (0.210, 0.710), (0.140, 0.080)), _ILLUMINANT_C),
    5: (((0.640, 0.330), (0.290, 0.600), (0.150, 0.060)), D65),
    6: (_SMPTE_C, D65),
    7: (_SMPTE_C, D65),
    8: (((0.681, 0.319), (0.243, 0.692), (0.145, 0.049)), _ILLUMINANT_C),
    9: (((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)), D65),
    11: (_DISPLAY_P3, (0.314, 0.351)),
    12: (_DISPLAY_P3, D65),
    22: (((0.630, 0.340), (0.295, 0.605), (0.155, 0.077)), D65),
}
_SRGB_LIKE = (1, _UNSAID, 6, 13, 14, 15)  # the curves of video are shown as sRGB's, as browsers do
_CURVES = {**dict.fromkeys(_SRGB_LIKE, SRGB_CURVE), 4: (2.2,), 5: (2.8,), 8: (1.0,)}
_HDR = {16: "PQ", 18: "HLG"}


def cicp_profile(primaries: int, transfer: int) -> bytes | None:
    """Return an ICC profile of what code points say, or None if they say sRGB.

    Raises:
        Refused: If they say high dynamic range, or are none that is known here.
    """
    if transfer in _HDR:
        raise Refused(f"it is HDR ({_HDR[transfer]}), which has no look of its own in 8 bits", "export it as SDR, in sRGB")
    if primaries not in _PRIMARIES or transfer not in _CURVES:
        reason = f"it says its colours by the code points {primaries}/{transfer}, which are not known here"
        raise Refused(reason, "export it as sRGB")
    if primaries in (_BT709, _UNSAID) and transfer in _SRGB_LIKE:
        return None
    points, white = _PRIMARIES[primaries]
    return matrix_profile(points, white, _CURVES[transfer])
