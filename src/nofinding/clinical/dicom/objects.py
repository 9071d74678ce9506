"""The DICOM objects of one result: a structured report, a picture, a map, a segmentation."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import highdicom as hd
import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TrackingIdentifier,
)
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from nofinding import __version__
from nofinding.clinical.dicom import codes as ours
from nofinding.clinical.dicom.source import spacing_of, uid_of
from nofinding.clinical.result import Result, on_the_film
from nofinding.evaluation.report.colours import tinted
from nofinding.types import Pixels

__all__ = ["DicomObject", "objects_of"]

MAKER = "nofinding"
SERIES = {"report": 9101, "picture": 9102, "map": 9103, "segmentation": 9104}
LIBRARY = ("PatientOrientation", "ImagerPixelSpacing")  # what an image library has to repeat
UPRIGHT = ("L", "F")  # how a frontal film hangs, where it does not say
SIDE = 1024  # pixels of the longer side of the picture


@dataclass(frozen=True, kw_only=True)
class DicomObject:
    """One object, and what it is called in file names and in the log."""

    kind: str
    dataset: Dataset


def objects_of(
    film: Dataset, pixels: Pixels, result: Result, *, segmentation: bool = False
) -> list[DicomObject]:
    """Report and picture always, the map where there is one, the segmentation where asked for.

    `film` is the header as `read_source` gives it, `pixels` the decoded film. UIDs follow from the
    film, the model and the kind of object: made twice, it is the same object.
    """
    with warnings.catch_warnings():  # they quote the patient's name
        warnings.simplefilter("ignore")
        objects = [DicomObject(kind="report", dataset=report(film, result))]
        objects.append(DicomObject(kind="picture", dataset=picture(film, pixels, result)))
        if result.anomaly_map is not None:
            objects.append(DicomObject(kind="map", dataset=parametric_map(film, result)))
            if segmentation and result.threshold is not None:
                objects.append(DicomObject(kind="segmentation", dataset=segment(film, result)))
    for one in objects:
        if "PixelData" in one.dataset or "FloatPixelData" in one.dataset:
            one.dataset.BodyPartExamined = "CHEST"  # which is not paired: no Laterality
    return objects


def _uids(film: Dataset, result: Result, kind: str) -> dict[str, Any]:
    """Series and instance of one object."""
    parts = (str(film.SOPInstanceUID), result.sha256, __version__, kind)
    return {
        "series_instance_uid": uid_of(*parts, f"{result.score:.9g}", "series"),
        "series_number": SERIES[kind],
        "sop_instance_uid": uid_of(*parts, f"{result.score:.9g}", f"{result.p_value}"),
        "instance_number": 1,
    }


def _device() -> dict[str, Any]:
    return {
        "manufacturer": MAKER,
        "manufacturer_model_name": MAKER,
        "software_versions": __version__,
        "device_serial_number": "0",
    }


def algorithm(result: Result) -> AlgorithmIdentification:
    """What made the result, with everything that is no number among its parameters."""
    parameters = [
        ours.NOTICE,
        f"model {result.model}",
        f"model SHA-256 {result.sha256}",
        f"calibration: {result.calibration}",
        f"record fields: {', '.join(result.fields) or 'none'}",
        *(f"flag: {text}" for text in result.flags),
    ]
    return AlgorithmIdentification(
        name=f"{MAKER} {result.method}", version=result.version, parameters=parameters
    )


def report(film: Dataset, result: Result) -> Dataset:
    """TID 1500 Measurement Report: score, p-value and attention as measurements, flags as
    qualitative evaluations, RESEARCH among them."""
    identifiers = uid_of(str(film.SOPInstanceUID), result.sha256, "tracking")
    measurements = [Measurement(name=ours.SCORE, value=result.score, unit=ours.RATIO)]
    if result.p_value is not None:
        measurements.append(Measurement(name=ours.P_VALUE, value=result.p_value, unit=ours.RATIO))
    measurements += [
        Measurement(name=ours.attention(field), value=share, unit=ours.RATIO)
        for field, share in result.attention.items()
    ]
    evaluations = [QualitativeEvaluation(name=_qualification(), value=ours.RESEARCH)]
    evaluations += [
        QualitativeEvaluation(
            name=ours.flag(number),
            value=CodedConcept(value=f"FLAG-{number}", scheme_designator="99NOFINDING",
                               meaning=text[:64]),
        )
        for number, text in enumerate(result.flags, start=1)
    ]  # fmt: skip
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=identifiers, identifier="film"),
        algorithm_id=algorithm(result),
        finding_sites=[FindingSite(anatomic_location=ours.CHEST)],
        measurements=measurements,
        qualitative_evaluations=evaluations,
        source_images=[
            SourceImageForMeasurementGroup(
                referenced_sop_class_uid=film.SOPClassUID,
                referenced_sop_instance_uid=film.SOPInstanceUID,
            )
        ],
    )
    observer = ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=uid_of(MAKER, __version__, "device"), name=MAKER, manufacturer_name=MAKER,
            model_name=result.method[:64],
        ),
    )  # fmt: skip
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=ours.PROCEDURE,
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=[film] if all(film.get(key) for key in LIBRARY) else None,
    )
    document: Dataset = hd.sr.ComprehensiveSR(
        evidence=[film],
        content=content[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        manufacturer=MAKER,
        series_description=f"{MAKER} report, RESEARCH",
        **_uids(film, result, "report"),
    )
    return document


def _qualification() -> CodedConcept:
    return CodedConcept(
        value="QUALIFICATION", scheme_designator="99NOFINDING", meaning="Content qualification"
    )


def overlay(
    pixels: Pixels, heat: Float[np.ndarray, "h w"] | None, lines: Sequence[str]
) -> UInt8[np.ndarray, "h w 3"]:
    """The film in grey under its map in colour, with lines of text in a band below it."""
    scale = SIDE / max(pixels.shape)
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    film, grown = (
        np.asarray(Image.fromarray(one.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
        for one in (pixels, np.zeros((1, 1)) if heat is None else heat)
    )
    mixed = tinted(film, grown)
    page = Image.new("RGB", (size[0], size[1] + 22 * len(lines) + 10))
    page.paste(Image.fromarray((np.clip(mixed, 0, 1) * 255).astype(np.uint8)), (0, 0))
    pen = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        pen.text((8, size[1] + 6 + 22 * number), line, fill=(255, 255, 255), font_size=16)
    return np.asarray(page)


def picture(film: Dataset, pixels: Pixels, result: Result) -> Dataset:
    """A colour secondary capture: what every viewer can show."""
    heat = None
    if result.anomaly_map is not None:
        span = 2 * result.threshold if result.threshold else float(result.anomaly_map.max()) or 1.0
        heat = (
            on_the_film(result.anomaly_map, pixels.shape[0], pixels.shape[1], result.aspect) / span
        )
    p = "not calibrated" if result.p_value is None else f"p = {result.p_value:.3g}"
    lines = [ours.NOTICE, f"{result.method}: score {result.score:.4g}, {p}", *result.flags[:3]]
    shown = overlay(pixels, heat, lines)
    image: Dataset = hd.sc.SCImage.from_ref_dataset(
        ref_dataset=film,
        pixel_array=shown,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        manufacturer=MAKER,
        patient_orientation=tuple(film.get("PatientOrientation") or UPRIGHT),
        series_description=f"{MAKER} picture, RESEARCH",
        **_uids(film, result, "picture"),
    )
    image.DerivationDescription = f"Anomaly map over the film. {ours.NOTICE}"
    image.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    image.BurnedInAnnotation = "NO"  # of who the patient is; score and notice are no identity
    return image


def _geometry(film: Dataset, shape: tuple[int, int]) -> dict[str, Any]:
    """A frame of reference of our own for a projection: the detector's plane, in mm from its upper
    left corner. Positions in it are not positions in the patient."""
    down, across = spacing_of(film)
    rows, columns = shape
    tall, wide = int(film.Rows) * down / rows, int(film.Columns) * across / columns
    return {
        "pixel_measures": hd.PixelMeasuresSequence(pixel_spacing=(tall, wide), slice_thickness=1.0),
        "plane_orientation": hd.PlaneOrientationSequence("PATIENT", (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
        "plane_positions": [
            hd.PlanePositionSequence("PATIENT", (wide / 2 - across / 2, tall / 2 - down / 2, 0.0))
        ],
    }


def _placed(film: Dataset) -> Dataset:
    """The film with a frame of reference, which projections seldom have and maps must refer to."""
    placed = Dataset()
    placed.update(film)
    if not placed.get("FrameOfReferenceUID"):
        placed.FrameOfReferenceUID = uid_of(str(film.SOPInstanceUID), "frame of reference")
    placed.ImagePositionPatient = [0.0, 0.0, 0.0]
    placed.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    placed.PixelSpacing, placed.SliceThickness = [*spacing_of(film)], 1.0
    return placed


def parametric_map(film: Dataset, result: Result) -> Dataset:
    """The map as numbers (float32), on the part of the model's grid that the film covers."""
    assert result.anomaly_map is not None
    values = on_the_film(result.anomaly_map, int(film.Rows), int(film.Columns), result.aspect)
    values = np.ascontiguousarray(values, dtype=np.float32)
    top = float(values.max()) or 1.0
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="1",
        lut_explanation="Anomaly map",
        unit=ours.RATIO,
        value_range=(0.0, top),
        slope=1.0,
        intercept=0.0,
        quantity_definition=ours.MAP,
    )
    width = 2 * result.threshold if result.threshold else top
    image: Dataset = hd.pm.ParametricMap(
        source_images=[_placed(film)],
        pixel_array=values,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[
            hd.VOILUTTransformation(  # LINEAR allows no width below 1
                window_center=width / 2, window_width=width, voi_lut_function="LINEAR_EXACT"
            )
        ],
        content_description="Anomaly map of a projection radiograph",
        content_label="ANOMALY_MAP",
        content_qualification="RESEARCH",
        series_description=f"{MAKER} map, RESEARCH",
        **_geometry(film, values.shape),
        **_device(),
        **_uids(film, result, "map"),
    )
    return image


def segment(film: Dataset, result: Result) -> Dataset:
    """Where the map is above the value that 99 % of normal pixels stay below."""
    assert result.anomaly_map is not None and result.threshold is not None
    values = on_the_film(result.anomaly_map, int(film.Rows), int(film.Columns), result.aspect)
    mask = np.ascontiguousarray(values > result.threshold)
    description = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Above threshold",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=ours.MAP,
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=f"{MAKER} {result.method}",
            family=codes.DCM.ArtificialIntelligence,
            version=result.version,
            source=MAKER,
        ),
    )
    segmentation: Dataset = hd.seg.Segmentation(
        source_images=[_placed(film)],
        pixel_array=mask,
        segmentation_type="BINARY",
        segment_descriptions=[description],
        content_label="ANOMALY",
        content_description="Where the anomaly map is above its threshold",
        omit_empty_frames=False,
        series_description=f"{MAKER} segmentation, RESEARCH",
        **_geometry(film, mask.shape),
        **_device(),
        **_uids(film, result, "segmentation"),
    )
    segmentation.ContentQualification = "RESEARCH"
    return segmentation
