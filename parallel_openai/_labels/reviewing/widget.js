// The page's half of the review: shows one row, and tells the kernel what was chosen. It keeps nothing.

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function render({ model, el }) {
  const root = make("div", "po-review");
  root.tabIndex = 0;
  // JupyterLab would take the keys for its own: 1 makes a heading of the cell.
  root.dataset.lmSuppressShortcuts = "true";
  const top = make("div", "po-top");
  const fields = make("div", "po-fields");
  const said = make("div", "po-said");
  const labels = make("div", "po-labels");
  const foot = make("div", "po-foot");
  const back = make("button", "", "← Back");
  const forth = make("button", "", "Next →");
  const undo = make("button", "", "Undo");
  const note = make("input");
  note.placeholder = "A note (n), Enter keeps it";
  note.setAttribute("aria-label", "Note");
  foot.append(back, forth, undo, note);
  const hint = make("div", "po-hint");
  const trouble = make("div", "po-trouble");
  trouble.setAttribute("role", "alert");
  root.append(top, fields, said, labels, foot, hint, trouble);
  el.append(root);

  let picked = []; // with several labels a row: those chosen and not yet sent

  const item = () => model.get("item");
  const send = (message) => model.send({ at: item().at, note: note.value, ...message });
  const go = (to) => send({ do: "go", to });

  function choose(label) {
    if (!model.get("multi")) {
      send({ do: "choose", label });
      return;
    }
    picked = picked.includes(label) ? picked.filter((each) => each !== label) : [...picked, label];
    showLabels();
  }

  function confirm() {
    if (model.get("multi")) send({ do: "choose", label: picked });
    else if (item().judged ?? item().label) send({ do: "choose", label: item().judged ?? item().label });
  }

  function showLabels() {
    const { judged, label: model_said } = item();
    const said_so = [model_said ?? []].flat();
    const chosen = model.get("multi") ? picked : [judged ?? []].flat();
    labels.replaceChildren(
      ...model.get("labels").map((label, place) => {
        const button = make("button");
        if (place < 9) button.append(make("kbd", "", String(place + 1)));
        button.append(label);
        button.classList.toggle("po-chosen", chosen.includes(label));
        button.classList.toggle("po-model", said_so.includes(label));
        button.setAttribute("aria-pressed", String(chosen.includes(label)));
        button.addEventListener("click", () => { choose(label); root.focus({ preventScroll: true }); });
        return button;
      }),
    );
  }

  function show() {
    const row = item();
    top.replaceChildren();
    if (row.simulated) top.append(make("span", "po-mark", "SIMULATED"));
    top.append(make("span", "", row.total ? `Row ${row.at + 1} of ${row.total}` : "No row to go over"));
    const bar = make("div", "po-bar");
    const part = make("div");
    part.style.width = `${(100 * row.reviewed) / Math.max(1, row.total)}%`;
    bar.append(part);
    top.append(bar, make("span", "po-dim", `${row.reviewed} judged`));
    fields.replaceChildren();
    for (const [name, text] of row.fields ?? []) {
      if (row.fields.length > 1) fields.append(make("p", "po-name", name));
      fields.append(make("p", "po-field", text));
    }
    fields.scrollTop = 0;
    const words = [row.label == null ? "The model gave no label" : `The model: ${[row.label].flat().join(", ")}`];
    if (row.confidence != null) words.push(`confidence ${row.confidence.toFixed(2)}`);
    if (row.votes) words.push(`votes ${row.votes}`);
    if (row.reason) words.push(`because: ${row.reason}`);
    if (row.error) words.push(row.error);
    said.textContent = row.total ? words.join(" · ") : "";
    note.value = row.note ?? "";
    picked = [row.judged ?? row.label ?? []].flat();
    showLabels();
    back.disabled = row.at === 0;
    forth.disabled = row.at >= row.total - 1;
    undo.disabled = row.judged == null;
    const done = row.total > 0 && row.reviewed === row.total;
    const keys = model.get("multi")
      ? "Keys: 1-9 switch a label on and off, Enter keeps them"
      : "Keys: 1-9 choose, Enter agrees with the model";
    hint.textContent = done
      ? `All ${row.total} rows are judged, and kept in ${row.file}. review.frame() has the labels.`
      : `${keys}, ← → go back and on, u takes back, n writes a note.`;
  }

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    event.stopPropagation();
    if (event.target === note) {
      if (event.key === "Enter") {
        send({ do: "note", label: item().judged ?? null });
        root.focus({ preventScroll: true });
      } else if (event.key === "Escape") {
        note.value = item().note ?? "";
        root.focus({ preventScroll: true });
      }
      return;
    }
    const place = "123456789".indexOf(event.key);
    const known = model.get("labels");
    if (place >= 0 && place < known.length) choose(known[place]);
    else if (event.key === "ArrowRight") go(item().at + 1);
    else if (event.key === "ArrowLeft") go(item().at - 1);
    else if (event.key === "Enter" && event.target === root) confirm();
    else if (event.key === "u" && item().judged != null) send({ do: "undo" });
    else if (event.key === "n") note.focus();
    else return;
    event.preventDefault();
  });
  back.addEventListener("click", () => { go(item().at - 1); root.focus({ preventScroll: true }); });
  forth.addEventListener("click", () => { go(item().at + 1); root.focus({ preventScroll: true }); });
  undo.addEventListener("click", () => { send({ do: "undo" }); root.focus({ preventScroll: true }); });
  const tell = () => { trouble.textContent = model.get("trouble"); };
  model.on("change:item", show);
  model.on("change:trouble", tell);
  show();
  tell();
  return () => { model.off("change:item", show); model.off("change:trouble", tell); };
}

export default { render };
