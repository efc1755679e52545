// Two pages, one document: the path decides.
import { type MouseEvent, useSyncExternalStore } from 'react';

/** The pages. */
export type Route = 'markets' | 'ops';

/** The page of a path. */
export function routeOf(pathname: string): Route {
  return /^\/ops\/?$/.test(pathname) ? 'ops' : 'markets';
}

/** The path of a page. */
export function pathOf(route: Route): string {
  return route === 'ops' ? '/ops' : '/';
}

const listeners = new Set<() => void>();

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  window.addEventListener('popstate', listener);
  return () => {
    listeners.delete(listener);
    window.removeEventListener('popstate', listener);
  };
}

/** The current page. */
export function useRoute(): Route {
  return useSyncExternalStore(subscribe, () => routeOf(window.location.pathname));
}

/** Goes to a page on a click; ignores clicks that open new tabs. */
export function follow(event: MouseEvent<HTMLAnchorElement>, route: Route): void {
  if (event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  // The query stays, because it contains settings.
  window.history.pushState(null, '', `${pathOf(route)}${window.location.search}`);
  for (const listener of [...listeners]) listener();
}
