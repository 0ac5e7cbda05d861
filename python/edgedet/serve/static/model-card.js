// What runs, and what verification found.

const VERDICTS = {
  passed: ["✓", "Verified"],
  refused: ["✕", "Refused"],
  stale: ["!", "Verification out of date"],
  unverified: ["?", "Not verified"],
};

/** Fills the card. model: an entry of /v1/models. */
export function showModel(model) {
  const facts = document.createElement("dl");
  fact(facts, "Name", model.model);
  fact(facts, "Input", `${model.input.width} × ${model.input.height} px`);
  fact(facts, "Backend", model.backend);
  fact(facts, "Precision", model.precision);
  fact(facts, "Device", model.device);
  const licences = Object.entries(model.licence ?? {}).map(([what, licence]) => `${what}: ${licence}`);
  if (licences.length) fact(facts, "Licence", licences.join("; "));
  document.getElementById("model-body").replaceChildren(verdict(model), facts, classes(model.classes));
}

function verdict({ verdict: { state, text }, precision }) {
  // The float model is what the others are held against: no verdict is about itself.
  const reference = precision === "fp32";
  const [mark, words] = reference ? ["=", "Float reference"] : VERDICTS[state] ?? ["?", state];
  const made = document.createElement("div");
  made.className = "verdict";
  made.dataset.state = reference ? "reference" : state;
  const badge = document.createElement("span");
  badge.className = "badge";
  badge.setAttribute("aria-hidden", "true");
  badge.textContent = mark;
  const head = document.createElement("strong");
  head.textContent = words;
  const body = document.createElement("p");
  body.textContent = reference
    ? `Lower precisions of a bundle are verified against this one. Of this bundle: ${text}.`
    : sentence(text);
  made.append(badge, head, body);
  return made;
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

function fact(list, name, value) {
  const made = document.createElement("div");
  const [term, figure] = [document.createElement("dt"), document.createElement("dd")];
  term.textContent = name;
  figure.textContent = value;
  made.append(term, figure);
  list.append(made);
}

function classes(names) {
  const made = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = names.length === 1 ? "1 class" : `${names.length} classes`;
  const list = document.createElement("p");
  list.textContent = names.join(", ");
  made.append(summary, list);
  return made;
}
