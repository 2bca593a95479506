"use strict";
(() => {
  const $ = id => document.getElementById(id);
  const data = JSON.parse($("data").textContent), box = $("tokens"), tokens = [...box.querySelectorAll("bdi")];
  const at = new Map(tokens.map((token, position) => [token, position]));
  const [ID, LOSS, OFF, GATES, NORMS, NGRAMS] = [0, 1, 2, 3, 4, 5];
  const columns = data.layers.flatMap(layer => [...Array(data.streams).keys()].map(stream => ({layer, stream})));
  const fixed = (value, digits = 3) => value == null ? "–" : value.toFixed(digits);
  const short = value => value && Math.abs(value) < .01 ? value.toPrecision(3) : fixed(value);
  const signed = (value, write = fixed) => (value < 0 ? "−" : "+") + write(Math.abs(value));
  const clamp = (value, most) => Math.max(0, Math.min(most, value));
  const change = ({[LOSS]: on, [OFF]: off}) => on == null || off == null ? null : on - off;
  const mean = values => values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
  const known = values => values.filter(value => value != null);
  // Not the highest value, since one odd token would pale the rest.
  const top = values => known(values).sort((a, b) => a - b)[Math.floor(.99 * (known(values).length - 1))] || 1;
  const make = (tag, kind, ...inside) => {
    const made = Object.assign(document.createElement(tag), {className: kind});
    made.append(...inside);
    return made;
  };

  // The view: what is shown, of which gates, and on which scale.
  let view;
  const choose = () => {
    const [what, layer, stream] = ["what", "layer", "stream"].map(id => $(id).value), isLoss = what === "change";
    const picked = [...columns.keys()].filter(it =>
      (!layer || columns[it].layer === +layer) && (!stream || columns[it].stream === +stream));
    const each = token => picked.map(it => token[what === "norm" ? NORMS : GATES][it]);
    const value = isLoss ? change : token => mean(known(each(token)));
    const isWhole = what === "gate" && !$("stretch").checked;
    const all = isWhole ? [1] : data.tokens.flatMap(isLoss ? token => Math.abs(change(token)) : each);
    const thick = clamp(Math.floor(28 / picked.length), 4) || 2;
    const layers = [...new Set(picked.map(it => columns[it].layer))];
    const places = picked.map((it, row) => row * thick + 2 * layers.indexOf(columns[it].layer));
    view = {what, isLoss, isWhole, picked, layers, each, value, places, thick, scale: top(all)};
    $("layer").disabled = $("stream").disabled = isLoss;
    $("stretch").disabled = what !== "gate";
    box.style.setProperty("--staff", (isLoss ? 0 : places.at(-1) + thick) + "px");
    explain();
    watch.disconnect();
    [...box.children].forEach(chunk => watch.observe(chunk));
  };

  // Only chunks near the window are painted: a long text costs what is seen of it.
  const shade = value => clamp(value / view.scale, 1).toFixed(3);
  const paint = token => {
    const read = data.tokens[at.get(token)], value = view.value(read) ?? 0;
    const isStrong = view.isLoss && Math.abs(value) > .1 * view.scale;
    token.style.setProperty("--v", shade(Math.abs(value)));
    token.style.setProperty("--hue", view.isLoss && value < 0 ? "var(--cool)" : "var(--heat)");
    token.classList.toggle("helps", isStrong && value < 0);
    token.classList.toggle("harms", isStrong && value > 0);
    const stops = view.isLoss ? [] : view.each(read).flatMap((it, row) => {
      const from = view.places[row], to = from + view.thick, color = `rgb(var(--heat)/${shade(it ?? 0)})`;
      return [`${color} ${from}px ${to}px`, `transparent ${to}px ${view.places[row + 1] ?? to}px`];
    });
    token.style.setProperty("--bars", view.isLoss ? "none" : `linear-gradient(${stops.join()})`);
  };
  const watch = new IntersectionObserver(changes => changes.filter(it => it.isIntersecting)
    .forEach(({target}) => target.querySelectorAll("bdi").forEach(paint)), {rootMargin: "600px 0px"});
  addEventListener("beforeprint", () => tokens.forEach(paint));

  const explain = () => {
    const {what, isLoss, isWhole, picked, scale} = view, count = picked.length, ramp = make("div", "ramp", make("i", isLoss ? "two" : ""));
    for (let tick = 0; tick < 5; tick++) {
      const value = scale * (isLoss ? tick / 2 - 1 : tick / 4);
      ramp.append(make("b", "", isLoss && value ? signed(value, short) : scale < 1 ? short(value) : fixed(value, 2)));
    }
    const thing = what === "gate" ? "gate" : "norm of what is added, as a share of the stream's norm";
    const layers = view.layers.map(layer => `layer ${layer}, `
      + `stream ${picked.filter(it => columns[it].layer === layer).map(it => columns[it].stream).join(", ")}`);
    const whose = count === 1 ? `the ${thing} of ${layers}`
      : `the mean ${thing}, over ${count} of ${columns.length}${count === columns.length ? ", none picked" : ""}`;
    const told = isLoss ? "Background: change of the token's loss by the memory, in nats. Below zero it helps (blue, "
      + "underlined), above zero it harms (red, dotted)."
      : `Background: ${whose}. Bars below a token, from the top: ${layers.join("; ")}.`;
    const note = make("p", "note", told + (isWhole ? "" : " The scale ends where 99 in 100 values do."));
    $("legend").replaceChildren(ramp, Object.assign(note, {id: "told"}));
  };

  // The panel of one token.
  const normTop = top(data.tokens.flatMap(token => token[NORMS]));
  const meter = (value, most) => {
    const bar = make("i", "");
    bar.style.width = 100 * clamp((value ?? 0) / most, 1) + "%";
    return make("td", "meter", bar);
  };
  const table = (names, rows) => make("div", "wide", make("table", "",
    make("thead", "", make("tr", "", ...names.map(it => make("th", "", it)))),
    make("tbody", "", ...rows.map(([first, ...rest]) => make("tr", "", make("th", "", first),
      ...rest.map(it => it instanceof Node ? it : make("td", "", it)))))));
  const ngram = ([order, text, layers]) => {
    const loads = data.layers.map(layer => data.heads[`${layer} ${order}`]), names = ["head"];
    data.layers.forEach((layer, it) => names.push(`row, layer ${layer}`, ...(loads[it] ? ["used", "shared"] : [])));
    const rows = [...Array(Math.max(0, ...layers.map(heads => heads.length))).keys()].map(head => [head,
      ...layers.flatMap((heads, it) => [heads[head] ?? "–", ...(loads[it]?.[head] ?? [])])]);
    return [make("h3", "", `${order}-gram `, make("bdi", "", text)), table(names, rows)];
  };
  let chosen = tokens[0];
  const show = ({target}) => {
    if (!at.has(target)) return;
    chosen.ariaSelected = false;
    (chosen = target).ariaSelected = true;
    const position = at.get(target), token = data.tokens[position], delta = change(token);
    const verdict = delta == null ? "" : `, change ${signed(delta)} nats: the memory ${delta < 0 ? "helps" : delta ? "harms" : "does nothing"}`;
    $("now").replaceChildren(make("p", "name", make("bdi", "", target.textContent)),
      make("p", "", `Token ${position + 1} of ${tokens.length}, id ${token[ID]}. ${token[LOSS] == null ? "It has no loss."
        : `Loss ${fixed(token[LOSS])}, with the memory off ${fixed(token[OFF])}${verdict}.`}`),
      make("p", "", `Mean gate ${fixed(mean(known(token[GATES])))}.`));
    const gates = columns.map(({layer, stream}, it) => [`${layer}, ${stream}`, fixed(token[GATES][it]), meter(token[GATES][it], 1),
      short(token[NORMS][it]), meter(token[NORMS][it], normTop)]);
    $("more").replaceChildren(make("h3", "", "Gates, and norms of what is added"),
      table(["layer, stream", "gate", "", "norm", ""], gates), ...token[NGRAMS].flatMap(ngram),
      make("p", "note", data.stats && token[NGRAMS].length ? data.stats : ""));
  };

  // One token is in the order of tabs; the arrow keys move it.
  let stop = 0;
  const go = position => {
    tokens[stop].tabIndex = -1;
    stop = clamp(position, tokens.length - 1);
    tokens[stop].tabIndex = 0;
    tokens[stop].focus();
  };
  const line = step => {
    const left = tokens[stop].offsetLeft, off = it => Math.abs(tokens[it].offsetLeft - left);
    let best = stop + step;
    while (tokens[best] && tokens[best].offsetTop === tokens[stop].offsetTop) best += step;
    for (let it = best; tokens[it]?.offsetTop === tokens[best].offsetTop; it += step) if (off(it) < off(best)) best = it;
    return tokens[best] ? best : stop;
  };
  const ahead = box.dir === "rtl" ? -1 : 1;
  const KEYS = {ArrowRight: () => stop + ahead, ArrowLeft: () => stop - ahead, ArrowDown: () => line(1), ArrowUp: () => line(-1),
    Home: () => 0, End: () => tokens.length - 1};
  for (const event of ["pointerover", "focusin"]) box.addEventListener(event, show);
  box.addEventListener("click", ({target}) => at.has(target) && go(at.get(target)));
  box.addEventListener("keydown", event => {
    if (!KEYS[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    go(KEYS[event.key]());
  });
  box.role = "listbox";
  tokens.forEach((token, it) => (token.role = "option", token.tabIndex = it ? -1 : 0));
  document.querySelector(".choice").hidden = $("panel").hidden = false;
  $("all").addEventListener("toggle", ({target: {lastChild}}) => {
    if (lastChild.tagName === "NOSCRIPT") lastChild.outerHTML = lastChild.textContent;
  });
  for (const id of ["what", "layer", "stream", "stretch"]) $(id).addEventListener("change", choose);
  choose();
})();
