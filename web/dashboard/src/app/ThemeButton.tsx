import { nextTheme, type ThemeChoice, useThemeChoice } from '../lib/theme';

const NAMES: Record<ThemeChoice, string> = { auto: 'as the system', light: 'light', dark: 'dark' };

// A circle half filled, a sun, a moon; drawn on 16 × 16 in outlines.
const ICONS: Record<ThemeChoice, string> = {
  auto: 'M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 1 0 0-11zM8 4v8M9.5 4.4v7.2M11 5.4v5.2',
  light:
    'M8 5a3 3 0 1 0 0 6a3 3 0 1 0 0-6zM8 .8v1.9M8 13.3v1.9M.8 8h1.9M13.3 8h1.9M2.9 2.9l1.35 1.35M11.75 11.75l1.35 1.35M2.9 13.1l1.35-1.35M11.75 4.25l1.35-1.35',
  dark: 'M13.2 9.7A5.7 5.7 0 0 1 6.3 2.8a5.7 5.7 0 1 0 6.9 6.9z',
};

/** Goes through system, light and dark. */
export function ThemeButton() {
  const choice = useThemeChoice();
  const label = `Colours: ${NAMES[choice]}`;
  return (
    <button type="button" className="icon-button" title={label} aria-label={label} onClick={nextTheme}>
      <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" data-choice={choice}>
        <path d={ICONS[choice]} />
      </svg>
    </button>
  );
}
