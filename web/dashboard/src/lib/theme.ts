// Light or dark: as in the system, unless the user has chosen.
import { useSyncExternalStore } from 'react';

/** The user's choice. */
export type ThemeChoice = 'auto' | 'light' | 'dark';

const KEY = 'nexus-theme';
const CHOICES: readonly ThemeChoice[] = ['auto', 'light', 'dark'];
const dark = window.matchMedia('(prefers-color-scheme: dark)');
const listeners = new Set<() => void>();

let choice: ThemeChoice = stored();

function stored(): ThemeChoice {
  // Storage can be forbidden altogether.
  try {
    const value = localStorage.getItem(KEY);
    return CHOICES.find((known) => known === value) ?? 'auto';
  } catch {
    return 'auto';
  }
}

function apply(): void {
  if (choice === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
  for (const listener of [...listeners]) listener();
}

dark.addEventListener('change', apply);
apply();

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Goes to the next choice and stores it. */
export function nextTheme(): void {
  choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length] ?? 'auto';
  try {
    if (choice === 'auto') localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, choice);
  } catch {
    // Then it holds until the page is left.
  }
  apply();
}

/** The choice. */
export function useThemeChoice(): ThemeChoice {
  return useSyncExternalStore(subscribe, () => choice);
}

/** The visible theme: changes with the choice or, with "auto", with the system. */
export function useShownTheme(): 'light' | 'dark' {
  return useSyncExternalStore(subscribe, () =>
    choice === 'auto' ? (dark.matches ? 'dark' : 'light') : choice,
  );
}
