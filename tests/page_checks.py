"""Checks of accessibility that run in the page: each gives what it found wrong."""

# Roles that nobody can use without a name.
NAMES = {"button", "checkbox", "combobox", "image", "img", "link", "region", "slider", "table", "textbox"}

# Text that is seen, whose contrast with what is behind it is below 4.5:1 (WCAG 2.2, 1.4.3).
CONTRAST = """() => {
  const parse = text => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const luminance = rgb => {
    const [r, g, b] = rgb.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const behind = element => {
    if (element.closest(".label")) return parse(getComputedStyle(element.previousSibling).fill).slice(0, 3);
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, a] = parse(getComputedStyle(at).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const wrong = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility() || element.closest(".unseen, .skip, noscript")) continue;
    const style = getComputedStyle(element);
    const found = ratio(parse(element.closest("svg") ? style.fill : style.color).slice(0, 3), behind(element));
    if (found < 4.5) wrong.push(`${node.data.trim()}: ${found.toFixed(2)}`);
  }
  return wrong;
}"""

# Controls that are seen and smaller than a finger, 44 px (WCAG 2.2, 2.5.5); links in a sentence are exempt there.
SMALL_TARGETS = """() => [...document.querySelectorAll("button, select, input, summary, nav a, .chip")]
  .filter(one => one.checkVisibility() && !one.closest(".unseen"))
  .map(one => one.closest(".chip") ?? one)
  .filter(one => one.getBoundingClientRect().height < 43.5)
  .map(one => `${one.tagName} ${one.id || one.textContent}`)"""
