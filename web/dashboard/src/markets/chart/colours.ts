/** The colours of the style sheets that a canvas needs. */
export interface ChartColours {
  text: string;
  line: string;
  grid: string;
  up: string;
  down: string;
  upSoft: string;
  downSoft: string;
  label: string;
  font: string;
}

/**
 * Reads custom properties as real colours. `getPropertyValue` would give "light-dark(…)" back; a property that takes a
 * colour has it resolved.
 */
export function readColours(inside: HTMLElement): ChartColours {
  const probe = document.createElement('span');
  probe.hidden = true;
  inside.append(probe);
  const colour = (name: string) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const colours: ChartColours = {
    text: colour('--dim'),
    line: colour('--accent'),
    grid: colour('--line-soft'),
    up: colour('--up'),
    down: colour('--down'),
    upSoft: colour('--up-volume'),
    downSoft: colour('--down-volume'),
    label: colour('--label'),
    font: getComputedStyle(inside).fontFamily,
  };
  probe.remove();
  return colours;
}
