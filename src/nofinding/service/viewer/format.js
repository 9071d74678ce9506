// How numbers, units and ids are written.

const LABELS = {
  bmi: "BMI", spo2: "SpO\u2082", heart_rate: "heart rate", respiratory_rate: "resp. rate",
  systolic: "systolic BP", diastolic: "diastolic BP",
};
const UNITS = {
  a: "years", "kg/m2": "kg/m\u00b2", "mm[Hg]": "mmHg", Cel: "\u00b0C", "/min": "/min",
};
const SOURCES = {
  request: "sent along", header: "DICOM", fhir: "record (FHIR)", "what-if": "what if",
};

/** A field's name as it is read. */
export const label = (field) => LABELS[field] ?? field.replaceAll("_", " ");
/** A UCUM unit as it is read. */
export const unit = (ucum) => UNITS[ucum] ?? ucum ?? "";
/** Where a value is from. */
export const source = (name) => SOURCES[name] ?? name ?? "";
/** The first digits of a pseudonym or a hash. */
export const short = (text) => (text ?? "").slice(0, 8);

/** Three digits that count: 3.50, 0.0123, 128. */
export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "\u2013";
  const size = Math.abs(value);
  if (size >= 100) return value.toFixed(0);
  if (size > 0 && size < 0.001) return value.toExponential(1);
  return value === 0 ? "0" : value.toPrecision(3);
}

/** A p-value: two digits that count, never 0. */
export function probability(p) {
  if (p === null || p === undefined) return "\u2013";
  if (p < 0.0001) return "< 0.0001";
  return p >= 0.1 ? p.toFixed(2) : p.toPrecision(2);
}

/** A share of one, in per cent. */
export function share(value) {
  if (value === null || value === undefined) return "\u2013";
  return `${(100 * value).toFixed(value < 0.0995 && value > 0 ? 1 : 0)} %`;
}

/** When something came in, by this machine's clock: seconds since 1970. */
export function time(seconds) {
  const when = new Date(1000 * seconds);
  const two = (part) => String(part).padStart(2, "0");
  const day = `${when.getFullYear()}-${two(when.getMonth() + 1)}-${two(when.getDate())}`;
  return `${day} ${two(when.getHours())}:${two(when.getMinutes())}:${two(when.getSeconds())}`;
}

/** What a p-value says, in a sentence. */
export function meaning(result) {
  if (result.p_value === null || result.p_value === undefined) {
    return "The model is not calibrated: this score has no p-value, and can only be compared " +
      "with other scores of the same model.";
  }
  const of = result.p_value < 0.05 ? 1000 : 100;
  const many = Math.max(1, Math.round(of * result.p_value));
  return `About ${many} of ${of.toLocaleString("en")} normal films score as high as this one, or ` +
    "higher. That says how unusual the film is, not how likely a disease is.";
}
