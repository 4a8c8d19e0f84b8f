// What the status pages share. Everything goes in as text; nothing here is ever parsed as markup.
const byId = id => document.getElementById(id);
const make = (tag, text, kind) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
};
// A row of th or td; `inside` makes the content of a cell out of what is given for it.
const row = (tag, cells, kinds, inside = content => content) => {
  const line = make("tr", undefined, tag === "th" ? "heads" : "");
  cells.forEach((content, i) => {
    const cell = make(tag, undefined, kinds[i]);
    const made = inside(content, kinds[i]);
    if (made !== "") cell.append(made instanceof Node ? made : make("span", made));
    line.append(cell);
  });
  return line;
};
// Tells each cell below the heads what stands over it, for where there is no room for columns.
const headed = rows => {
  if (!rows.length || rows[0].className !== "heads") return rows;
  const heads = [...rows[0].cells].map(head => head.textContent);
  for (const line of rows.slice(1)) [...line.cells].forEach((cell, i) => { if (i && heads[i]) cell.dataset.head = heads[i]; });
  return rows;
};
// Only what has changed is written, so that a selection survives the next second.
const shown = new Map();
const fill = (id, data, build) => {
  const text = JSON.stringify(data);
  if (shown.get(id) === text) return;
  shown.set(id, text);
  byId(id).replaceChildren(...headed(build()));
};
const figures = list => fill("figures", list, () => list.map(([name, value]) => {
  const cell = make("div");
  cell.append(make("b", value), make("span", name));
  return cell;
}));
// Shows what is at `path` every second; `lost` is said when nobody answers.
const poll = async (path, show, lost) => {
  try {
    const answer = await fetch(path);
    if (!answer.ok) throw new Error(answer.status);
    show(await answer.json());
  } catch {
    byId("status").className = "dot bad";
    byId("status").textContent = lost;
  }
  setTimeout(poll, 1000, path, show, lost);
};
