// What the page says, by sight and by screen reader.

const alert = document.getElementById("alert");
const status = document.getElementById("status");
let telling = 0;

/** Says something to who cannot see the page, when nothing else is to be said for a moment. */
export function tell(text) {
  clearTimeout(telling);
  telling = setTimeout(() => (status.textContent = text), 400);
}

/** An error with its remedy, and a button where the same may work another time. */
export function complain({ title, remedy, detail, again }, retry = null) {
  const [head, body] = [document.createElement("strong"), document.createElement("p")];
  head.textContent = title;
  body.textContent = remedy;
  const parts = [head, body];
  if (detail) {
    const said = document.createElement("p");
    said.className = "quiet";
    said.textContent = `The server says: ${detail}`;
    parts.push(said);
  }
  if (again && retry) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Try again";
    button.addEventListener("click", retry);
    parts.push(button);
  }
  alert.replaceChildren(...parts);
  alert.scrollIntoView({ block: "nearest" });
}

/** Takes the error away. */
export const calm = () => alert.replaceChildren();
